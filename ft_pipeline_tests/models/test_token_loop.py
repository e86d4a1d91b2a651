"""Our generation loop: the tokens of transformers' `generate`, without computing finished rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from ft_pipeline.models.decoding.generate import _generate_with_transformers, generate
from ft_pipeline.models.decoding.token_loop import (
    Decoding,
    PromptBatch,
    choose_tokens,
    generate_tokens,
    supports_token_loop,
)
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline_tests.training.architectures import CONFIGS, tiny_model_of

PROMPTS = [[5, 9, 11, 40, 7, 8], [30], [100, 4, 77], [60, 61, 62, 63], [12, 13], [90]]
WIDTH = max(map(len, PROMPTS))
IDS = torch.tensor([[0] * (WIDTH - len(prompt)) + prompt for prompt in PROMPTS])
MASK = torch.tensor([[0] * (WIDTH - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
BATCH = PromptBatch(IDS, MASK, pad_token_id=0)
WINDOWS = {"gemma2", "gemma3_text", "mistral"}
OVERRIDES = {"phi3"}  # it clears its cache when the scale of its positions changes


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def transformers_answers(model: Any, batch: PromptBatch, decoding: Decoding) -> list[list[int]]:
    """The answers of transformers' `generate`, cut after the first stop token."""
    keys = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    if decoding.temperature:
        keys = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    rows = model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=list(decoding.stop_token_ids),
        pad_token_id=batch.pad_token_id,
        **keys,
    )[:, batch.ids.shape[1] :].tolist()
    stops = decoding.stop_token_ids
    ends = [next((place + 1 for place, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def stopping(model: Any, limit: int) -> Decoding:
    """Stop tokens that end answers at different steps: tokens that the model writes at different places."""
    endless = transformers_answers(model, BATCH, Decoding([10_000], limit))
    return Decoding([endless[0][2], endless[1][4], endless[2][7]], limit)


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_answers_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    model = load(tiny_model_of(kind, tmp_path))
    assert supports_token_loop(model) is (kind not in WINDOWS | OVERRIDES)
    if supports_token_loop(model):
        decoding = stopping(model, 12)
        ours = generate_tokens(model, BATCH, decoding)
        assert ours == transformers_answers(model, BATCH, decoding)
        assert len(set(map(len, ours))) > 1, "rows end at different steps"


def test_finished_rows_are_no_longer_computed(tiny_base: Path) -> None:
    model = load(tiny_base)
    decoding = stopping(model, 24)
    computed: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, keys: computed.append(len(keys["input_ids"])), with_kwargs=True
    )
    answers = generate_tokens(model, BATCH, decoding)
    hook.remove()
    assert answers == transformers_answers(model, BATCH, decoding)
    lengths = sorted(map(len, answers))
    assert lengths[0] < lengths[-1] == len(computed)
    assert computed == sorted(computed, reverse=True) and computed[0] == len(PROMPTS)
    for step, rows in enumerate(computed):
        left = sum(length > step for length in lengths)
        assert left <= rows < max(left / 0.75, left + 1), "fewer than a quarter of the rows are finished"


def test_batches_without_padding_and_single_rows_equal_transformers(tiny_base: Path) -> None:
    model = load(tiny_base, torch.bfloat16)
    decoding = Decoding([10_000], 10)
    for ids in (torch.tensor([[5, 9, 11], [30, 4, 7]]), torch.tensor([[5, 9, 11]])):
        batch = PromptBatch(ids, torch.ones_like(ids), pad_token_id=0)
        assert generate_tokens(model, batch, decoding) == transformers_answers(model, batch, decoding)


def test_sampling_equals_transformers_until_rows_are_dropped(tiny_base: Path) -> None:
    model = load(tiny_base)
    decoding = Decoding([10_000], 10, temperature=0.8)
    drawn = []
    for write_batch in (generate_tokens, transformers_answers):
        torch.manual_seed(3)
        drawn.append(write_batch(model, BATCH, decoding))
    assert drawn[0] == drawn[1]
    greedy = generate_tokens(model, BATCH, Decoding([10_000], 10))
    assert greedy != drawn[0]
    ending = Decoding([drawn[0][0][0]], 10, temperature=0.8)
    for batch_of_answers in drawn:
        torch.manual_seed(3)
        batch_of_answers[:] = generate_tokens(model, BATCH, ending)
    assert drawn[0] == drawn[1] and drawn[0][0] == ending.stop_token_ids
    assert len(set(map(len, drawn[0]))) > 1


@pytest.mark.parametrize(
    "config",
    [
        {"repetition_penalty": 1.8},
        {"suppress_tokens": list(range(3, 60))},
        {"min_new_tokens": 6},
        {"no_repeat_ngram_size": 2},
        {"forced_eos_token_id": 2},
        {"num_beams": 2},
    ],
)
@pytest.mark.parametrize("cache", [{}, {"use_cache": False}])
def test_a_models_own_penalties_and_limits_are_ignored(
    config: dict[str, Any], cache: dict[str, Any], tiny_base: Path
) -> None:
    """Greedy is the most probable token of the model, as llama.cpp takes it, in our loop and in transformers'."""
    model, tokenizer = load(tiny_base), load_tokenizer(tiny_base)
    prompts = ["My package is late", "Paris", "Where can I change the delivery address of my order?"]

    def answers() -> list[str]:
        return [answer.text for answer in generate(model, tokenizer, prompts, max_new_tokens=10, batch_size=3)]

    expected = answers()
    for key, value in (config | cache).items():
        setattr(model.generation_config, key, value)
    configured = model.generation_config
    assert supports_token_loop(model) is (not cache)
    assert answers() == expected
    assert model.generation_config is configured, "it is saved with the model"


def test_a_models_sampling_settings_are_ignored(tiny_base: Path) -> None:
    model = load(tiny_base)
    before = generate_tokens(model, BATCH, Decoding([10_000], 6))
    for key, value in {"do_sample": True, "temperature": 0.3, "top_k": 5, "top_p": 0.5, "max_length": 7}.items():
        setattr(model.generation_config, key, value)
    assert supports_token_loop(model)
    assert generate_tokens(model, BATCH, Decoding([10_000], 6)) == before


def test_neutral_values_of_a_generation_config_change_nothing(tiny_base: Path) -> None:
    model = load(tiny_base)
    model.generation_config = GenerationConfig.from_model_config(model.config)
    assert supports_token_loop(model)
    for key, value in {"repetition_penalty": 1.0, "num_beams": 1, "min_length": 0, "suppress_tokens": None}.items():
        setattr(model.generation_config, key, value)
    assert supports_token_loop(model)


def test_numbers_choose_tokens_by_their_probabilities() -> None:
    """Simulated: the shares of tokens are their probabilities, and each number has its token."""
    logits = torch.tensor([[0.0, 2.0, -1.0, 1.0]]).expand(40_000, -1)
    numbers = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = choose_tokens(logits, 0.7, numbers)
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    torch.testing.assert_close(shares, torch.softmax(logits[0] / 0.7, -1), atol=0.01, rtol=0)
    edges = torch.softmax(logits[:1] / 0.7, -1).double().cumsum(-1)[0]
    ends = torch.tensor([0.0, float(edges[0]) - 1e-6, float(edges[0]) + 1e-6, 1 - 1e-16], dtype=torch.float64)
    assert choose_tokens(logits[:4], 0.7, ends).tolist() == [0, 0, 1, 3]
    impossible = torch.tensor([[float("-inf"), 0.0, float("-inf")]])
    assert choose_tokens(impossible, 1.0, torch.zeros(1)).tolist() == [1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_several_answers_to_a_prompt_equal_those_to_its_copies(temperature: float, tiny_base: Path) -> None:
    model = load(tiny_base)
    ids, mask = torch.tensor([[0, 5, 6, 7], [4, 9, 8, 3]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    numbers = torch.rand(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    decoding = Decoding([1], 8, temperature)
    once = PromptBatch(ids, mask, 0, copies=3, uniforms=numbers)
    repeated = PromptBatch(ids.repeat_interleave(3, 0), mask.repeat_interleave(3, 0), 0, uniforms=numbers)
    answers = generate_tokens(model, once, decoding)
    assert answers == generate_tokens(model, repeated, decoding) and len(answers) == 6
    assert answers == _generate_with_transformers(model, once, decoding)
    assert temperature == 0 or len(set(map(tuple, answers))) == 6
