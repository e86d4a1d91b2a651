"""What the merge check measures: a fixed sample of rows, for any size of vocabulary, in little memory."""

import random

import pytest
import torch
from torch.nn import functional

from ft_pipeline.models.load import load_model
from ft_pipeline.training.merging.equivalence import (
    COMPARED_ROWS,
    COMPARED_TOKENS,
    HELD_OUT_ROWS,
    HeldOutRows,
    Measurement,
    kl_divergence,
    kl_divergences,
    measure_model,
)
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.tokens.sample import sample_rows
from ft_pipeline.training.trainer.loss import Head
from ft_pipeline_tests.training.architectures import tiny_model_of

LARGE = {
    "vocab_size": 128_256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
}


def row(number, answer, words=range(10, 200), prompt=3):
    """`prompt` tokens that are read, and `answer` tokens that are trained."""
    tokens = random.Random(number).choices(words, k=prompt + answer)
    return {"id": f"{number:064x}", "input_ids": tokens, "labels": [MASKED] * prompt + tokens[prompt:]}


def direct_logits(model, rows):
    """[tokens, vocabulary] by the model's own forward, row by row."""
    with torch.no_grad():
        parts = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1] for row in rows]
    return torch.cat([part[torch.tensor(row["labels"][1:]) != MASKED] for part, row in zip(parts, rows, strict=True)])


def direct_kl(first, second, rows):
    p, q = (direct_logits(model, rows).log_softmax(1) for model in (first, second))
    return float(functional.kl_div(q, p, log_target=True, reduction="batchmean"))


@pytest.mark.long
def test_short_rows_are_compared_even_with_a_large_vocabulary(tmp_path):
    """Two models that differ in the short rows alone: the logits of the one long row already take 400 MB."""
    folder = tiny_model_of("llama", tmp_path / "large", **LARGE)
    first, second = (load_model(folder, "cpu") for _ in range(2))
    rows = [row(0, 1600), *(row(number, 6, words=range(300, 400)) for number in range(1, 31))]
    second.get_input_embeddings().weight.data[300:400] *= -1
    measured = [measure_model(model, rows, 0) for model in (first, second)]
    assert kl_divergence(*measured) > 0.01
    assert (measured[0].compared_rows, len(measured[0].states)) == (31, 1600 + 30 * 6)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "granite"])  # own head, tied head, soft cap, scale
def test_kl_and_loss_equal_those_of_the_models_own_logits(kind, tmp_path):
    folder = tiny_model_of(kind, tmp_path / "model")
    first, second = (load_model(folder, "cpu", dtype=torch.float32) for _ in range(2))
    second.get_input_embeddings().weight.data += 0.1 * torch.randn_like(second.get_input_embeddings().weight)
    second.get_output_embeddings().weight.data *= 1.1
    rows = [row(number, 2 + 5 * number) for number in range(10)]
    measured = [measure_model(model, rows, 0) for model in (first, second)]
    expected = direct_kl(first, second, rows)
    assert expected > 0.01
    assert kl_divergence(*measured) == pytest.approx(expected, rel=1e-3)
    targets = torch.tensor([label for row in rows for label in row["labels"] if label != MASKED])
    assert measured[1].loss == pytest.approx(float(functional.cross_entropy(direct_logits(second, rows), targets)))


def test_the_sample_does_not_grow_with_the_rows(tiny_base):
    """It has at most 512 rows. 64 of them are compared, at 4,000 tokens; a longer row has more of these tokens."""
    model = load_model(tiny_base, "cpu", dtype=torch.float32)
    rows = [row(number, 150 if number % 2 else 15) for number in range(600)]
    compared = sample_rows(rows, COMPARED_ROWS)
    assert sum(len(compared_row["input_ids"]) - 3 for compared_row in compared) > COMPARED_TOKENS
    measured, alone = measure_model(model, rows, 0), measure_model(model, compared, 0)
    assert (measured.rows, measured.compared_rows) == (HELD_OUT_ROWS, COMPARED_ROWS)
    assert measured.states.shape == (COMPARED_TOKENS, model.config.hidden_size)
    torch.testing.assert_close(measured.states, alone.states, rtol=1e-3, atol=1e-3)
    assert measured.loss == pytest.approx(measure_model(model, sample_rows(rows, HELD_OUT_ROWS), 0).loss)


def test_a_sample_ignores_row_order_and_contains_every_smaller_sample():
    rows = [row(number, 4) for number in range(600)]
    ids = {sampled["id"] for sampled in sample_rows(rows, 100)}
    assert len(ids) == 100
    assert {sampled["id"] for sampled in sample_rows(rows[::-1], 100)} == ids
    assert {sampled["id"] for sampled in sample_rows(rows, 20)} < ids
    assert len({sampled["id"] for sampled in sample_rows([*rows, row(600, 4)], 100)} & ids) >= 99
    assert sample_rows(rows[:50], 100) == rows[:50]


def test_equal_output_heads_are_stored_once(tmp_path, tiny_base):
    rows = [row(number, 5) for number in range(3)]
    held_out = HeldOutRows(rows, 0)
    first, second = (held_out.load_and_measure(lambda: load_model(tiny_base, "cpu")) for _ in range(2))
    assert second.head is first.head

    def with_its_own_head():
        model = load_model(tiny_base, "cpu")
        model.get_output_embeddings().weight.data[7] *= -1
        return model

    changed = held_out.load_and_measure(with_its_own_head)
    assert changed.head is not first.head
    pairs = [("first", "again"), ("first", "changed")]
    divergences = kl_divergences({"first": first, "again": second, "changed": changed}, pairs)
    assert divergences["first", "again"] == 0 < divergences["first", "changed"] == kl_divergence(first, changed)


def test_kl_is_zero_for_equal_logits_and_correct_for_known_distributions():
    def as_measured(logits):
        return Measurement(0.0, 1, logits, Head(torch.eye(logits.shape[1]), None, 1.0, None), 1)

    logits = torch.randn(70, 7)
    assert kl_divergence(as_measured(logits), as_measured(logits + 3)) == pytest.approx(0, abs=1e-6)
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    expected = float((p * (p / q).log()).sum())
    assert kl_divergence(as_measured(p.log()), as_measured(q.log())) == pytest.approx(expected, rel=1e-5)
