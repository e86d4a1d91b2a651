"""dpo and cpt: which rows they train on, their losses, and how a training continues from an earlier one."""

import itertools
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from ft_pipeline.errors import UserError
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.preferences.dpo import (
    PAIR_LOSSES,
    REFERENCES,
    PairScores,
    collate_pairs,
    pair_losses,
    with_reference,
)
from ft_pipeline.preferences.settings import DpoSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter, training_data
from ft_pipeline.training.objectives.cpt import BlockChecks, pack_blocks
from ft_pipeline.training.objectives.rows import TableRows
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.token_rows import failures, read_split
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.loss import sequence_log_probabilities
from ft_pipeline_tests.training.subject import (
    SHARES,
    job,
    known_rows,
    make_training_data,
    preference_rows,
    support_rows,
    text_rows,
    write_conversations,
)

FAST = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "eval_steps": 4}


ONE = torch.ones(1)


def experiment(objective, technique="lora", dpo=None, **training):
    return ExperimentSettings.model_validate(
        {"objective": objective, "technique": technique, "dpo": dpo or {}, "training": {**FAST, **training}}
    )


def make(folder, base, settings, rows, conversations=None):
    """The folder and the token audit of a training_data artifact of pairs or texts."""
    name = "preferences" if settings.objective == "dpo" else "text"
    (folder / name).mkdir(parents=True, exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pq.write_table(table, folder / name / "rows.parquet")
    known = write_conversations(folder / "conversations", conversations or known_rows())
    inputs = {"conversations": known, "base_model": base, name: folder / name}
    work = job("training_data", folder / "data", settings, inputs)
    work.config["data"] = SHARES
    return work.out, training_data.run(work)["audit"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, tiny_base):
    return make(tmp_path_factory.mktemp("pairs"), tiny_base, experiment("dpo"), preference_rows())


@pytest.fixture(scope="module")
def texts(tmp_path_factory, tiny_base):
    settings = experiment("cpt", max_length=64)
    return make(tmp_path_factory.mktemp("texts"), tiny_base, settings, text_rows())


def train(folder, data, base, settings, start=None):
    inputs = {"training_data": data, "base_model": base, **({"start": start} if start else {})}
    work = job("adapter", folder, settings, inputs)
    return work, adapter.run(work)


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_each_pair_gives_two_texts_whose_answers_are_trained(pairs, tiny_base):
    folder, report = pairs
    assert failures(report) == [] and report["left_out"] == []
    train_rows, validation = read_split(folder, "train"), read_split(folder, "validation")
    assert len(train_rows) + len(validation) == 24 and validation
    tokenizer = load_tokenizer(tiny_base)
    for row in train_rows + validation:
        for ids, labels, opening in (("input_ids", "labels", ""), ("rejected_ids", "rejected_labels", "No idea")):
            trained = tokenizer.decode([label for label in row[labels] if label != MASKED])
            assert trained.endswith("<|im_end|>") and trained.startswith(opening) and "Tell me" not in trained
            assert len(row[ids]) == len(row[labels])


@pytest.mark.parametrize("technique", ["lora", "full"])
def test_the_first_dpo_loss_is_ln_2(technique, tmp_path, pairs, tiny_base, monkeypatch):
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")  # in bf16, the reference may depend on the shape of its batch
    folder, _ = pairs
    work, _ = train(tmp_path, folder, tiny_base, experiment("dpo", technique, max_steps=4))
    first = json.loads((work.out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    losses = [json.loads(line) for line in (work.out / "metrics.jsonl").read_text().splitlines()]
    assert next(entry["loss"] for entry in losses if "loss" in entry) == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    "technique", ["lora", *(pytest.param(name, marks=pytest.mark.long) for name in ("qlora", "full"))]
)
def test_dpo_learns_which_answer_is_preferred(technique, tmp_path, pairs, tiny_base):
    folder, _ = pairs
    rate = 5e-4 if technique == "full" else 5e-3
    work, summary = train(tmp_path, folder, tiny_base, experiment("dpo", technique, learning_rate=rate))
    assert summary["best_eval_loss"] < math.log(2) - 0.01
    accuracies = [
        entry["eval_accuracy"]
        for entry in map(json.loads, (work.out / "metrics.jsonl").read_text().splitlines())
        if "eval_accuracy" in entry
    ]
    assert accuracies[0] <= 0.5 < accuracies[-1]
    values = json.loads((work.out / "held_out.json").read_text())
    measures = values["measures"]
    assert set(values["items"]) == {1} and measures["eval_accuracy"]["is_rate"]
    assert sum(measures["eval_loss"]["best"]) / len(values["items"]) == pytest.approx(summary["best_eval_loss"])
    assert sum(measures["eval_margin"]["best"]) > 0 == pytest.approx(sum(measures["eval_margin"]["first"]), abs=0.2)


def test_the_dpo_loss_equals_the_formula_of_the_paper(pairs, tiny_base):
    """Compared with the formula on the models' own logits, in fp32, pair by pair."""
    rows = read_split(pairs[0], "train")[:3]
    reference = load_model(tiny_base, "cpu", dtype=torch.float32)
    policy = load_model(tiny_base, "cpu", dtype=torch.float32)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.sin(torch.arange(parameter.numel())).view_as(parameter))

    @torch.no_grad()
    def likelihood(model, ids, labels):
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        wanted = torch.tensor(labels[1:])
        trained = wanted != MASKED
        return float(logits[trained].gather(1, wanted[trained][:, None]).sum())

    expected = []
    for row in rows:
        leads = [
            likelihood(model, row["input_ids"], row["labels"])
            - likelihood(model, row["rejected_ids"], row["rejected_labels"])
            for model in (policy, reference)
        ]
        expected.append(-float(functional.logsigmoid(torch.tensor(0.3 * (leads[0] - leads[1])))))
    batch = collate_pairs([{**row, **dict.fromkeys(REFERENCES, 0.0)} for row in rows], 0)
    policy_sides, reference_sides = (
        sequence_log_probabilities(model, batch).detach().chunk(2) for model in (policy, reference)
    )
    scores = PairScores(*(now - before for now, before in zip(policy_sides, reference_sides, strict=True)), ONE, ONE)
    assert pair_losses(scores, DpoSettings(beta=0.3)).tolist() == pytest.approx(expected, abs=1e-3)


def test_reference_log_probabilities_do_not_depend_on_the_batch_size(pairs, tiny_base, monkeypatch):
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")  # in bf16, products may depend on the shape of a batch
    rows = read_split(pairs[0], "train")[:5]
    model = load_model(tiny_base, "cpu", dtype=torch.float32)
    (together, alone) = (with_reference(model, rows, 0, size) for size in (5, 1))
    for batched, single in zip(together, alone, strict=True):
        assert batched["id"] == single["id"]
        for name in REFERENCES:
            assert batched[name] == pytest.approx(single[name], rel=512 * 2**-24)  # the longest sums


def test_label_smoothing_mixes_in_the_loss_of_swapped_pairs():
    pair, reversed_pair = (
        PairScores(torch.tensor([first]), torch.tensor([1.5 - first]), ONE, ONE) for first in (1, 0.5)
    )
    plain, swapped = (pair_losses(scores, DpoSettings(beta=0.4)) for scores in (pair, reversed_pair))
    smoothed = pair_losses(pair, DpoSettings(beta=0.4, label_smoothing=0.2))
    torch.testing.assert_close(smoothed, 0.8 * plain + 0.2 * swapped)
    robust = pair_losses(pair, DpoSettings(beta=0.4, label_smoothing=0.2, loss_type="robust"))
    torch.testing.assert_close(robust, (0.8 * plain - 0.2 * swapped) / 0.6)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("sigmoid", math.log(1 + math.exp(-0.5 * 5))),
        ("hinge", 0.0),
        ("ipo", (3 / 6 - (-2) / 4 - 1 / (2 * 0.5)) ** 2),
        ("apo_zero", 1 - 1 / (1 + math.exp(-1.5)) + 1 / (1 + math.exp(1.0))),
    ],
)
def test_each_loss_is_the_formula_of_its_paper(loss_type, expected):
    scores = PairScores(*(torch.tensor([value]) for value in (3.0, -2.0, 6, 4)))
    assert pair_losses(scores, DpoSettings(beta=0.5, loss_type=loss_type)).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("loss_type", sorted(PAIR_LOSSES))
def test_every_loss_prefers_the_preferred_answer(loss_type):
    """Its gradient raises the preferred answer and lowers the rejected one, at the start of training."""
    sides = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    smoothing = 0.1 if loss_type == "robust" else 0.0
    settings = DpoSettings(loss_type=loss_type, label_smoothing=smoothing)
    pair_losses(PairScores(*sides, ONE, ONE), settings).sum().backward()
    preferred, rejected = (float(side.grad) for side in sides)
    assert preferred < 0 < rejected


def test_smoothing_belongs_to_the_losses_that_have_it():
    with pytest.raises(ValueError, match="needs `label_smoothing`"):
        DpoSettings(loss_type="robust")
    with pytest.raises(ValueError, match="`loss_type: ipo` has no label smoothing"):
        DpoSettings(loss_type="ipo", label_smoothing=0.1)


def test_the_defaults_of_dpo_are_those_of_old_specs():
    assert DpoSettings().model_dump() == {"beta": 0.1, "label_smoothing": 0.0}
    assert DpoSettings(loss_type="ipo", sft_weight=1).model_dump() == {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "loss_type": "ipo",
        "sft_weight": 1.0,
    }


def test_a_weight_of_sft_keeps_preferred_answers_likely(tmp_path, pairs, tiny_base):
    """With it, preferred answers gain likelihood; rewards and margins are logged at each evaluation."""
    ends = {}
    for weight in (0.0, 1.0):
        settings = experiment("dpo", "lora", learning_rate=5e-3, dpo={"sft_weight": weight})
        work, _ = train(tmp_path / f"{weight}", pairs[0], tiny_base, settings)
        entries = [json.loads(line) for line in (work.out / "metrics.jsonl").read_text().splitlines()]
        held_out = [entry for entry in entries if "eval_margin" in entry]
        assert held_out[0]["eval_margin"] == pytest.approx(0, abs=0.02)
        for entry in held_out:
            margin = entry["eval_preferred_reward"] - entry["eval_rejected_reward"]
            assert entry["eval_margin"] == pytest.approx(margin, abs=1e-3)
        ends[weight] = held_out[-1]["eval_preferred_reward"]
    assert ends[1.0] > max(0.0, ends[0.0])


def test_a_batch_contains_the_preferred_texts_before_the_rejected_ones():
    rows = [
        {
            "input_ids": [1, 2, 3],
            "labels": [-100, 2, 3],
            "rejected_ids": [1, 5],
            "rejected_labels": [-100, 5],
            "preferred_reference": -2.5,
            "rejected_reference": -3.0,
        }
    ]
    batch = collate_pairs(rows, 0)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [1, 5, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [-100, 5, -100]]
    assert batch["reference"].tolist() == [[-2.5], [-3.0]]


# --- texts ------------------------------------------------------------------------------------------------------------


def test_every_token_of_the_texts_is_trained_once(texts, tiny_base):
    folder, report = texts
    assert failures(report) == []
    tokenizer = load_tokenizer(tiny_base)
    rows = read_split(folder, "train")
    assert max(len(row["input_ids"]) for row in rows) == 64
    trained = [label for row in rows for label in row["labels"] if label != MASKED]
    whole = tokenizer.decode([rows[0]["input_ids"][0], *trained])
    documents = [text for text in whole.split("<|im_end|>") if text]
    known = {row["text"] for row in text_rows()}
    assert len(documents) == len(set(documents)) and set(documents) <= known
    validation = tokenizer.decode([read_split(folder, "validation")[0]["input_ids"][0]])
    assert validation and report["rows"].keys() == {"text/train", "text/validation"}
    assert report["left_out"] == []


@pytest.mark.parametrize("length", [8, 9, 31, 4096])
def test_packing_keeps_every_token_exactly_once(length, tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    rows = text_rows(5)
    texts = TableRows(pa.Table.from_pylist(rows), np.arange(len(rows)))
    source = pack_blocks(tokenizer, texts, length, "train", BlockChecks(tokenizer, len(rows)))
    blocks = source.make(slice(None))
    ids = [token for row in rows for token in [*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]]
    assert [blocks[0].encoded.input_ids[0], *(label for block in blocks for label in block.trained)] == ids
    assert all(2 <= block.tokens <= length for block in blocks)
    for before, after in itertools.pairwise(blocks):
        assert after.encoded.input_ids[0] == before.encoded.input_ids[-1]


@pytest.mark.parametrize(
    "technique", ["lora", *(pytest.param(name, marks=pytest.mark.long) for name in ("qlora", "full"))]
)
def test_cpt_learns_the_texts(technique, tmp_path, texts, tiny_base):
    rate = 1e-3 if technique == "full" else 1e-2
    _, summary = train(tmp_path, texts[0], tiny_base, experiment("cpt", technique, max_length=64, learning_rate=rate))
    assert summary["best_eval_loss"] < summary["first_eval_loss"] - 0.1


# --- one training after another ---------------------------------------------------------------------------------------


def test_a_training_continues_from_the_adapter_of_the_previous_one(tmp_path, pairs, tiny_base, monkeypatch):
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")
    settings = ExperimentSettings.model_validate({"technique": "lora", "training": {**FAST, "learning_rate": 3e-3}})
    data = make_training_data(tmp_path / "sft", tiny_base, support_rows(), settings)
    before, _ = train(tmp_path / "before", data, tiny_base, settings)
    model = new_model(tiny_base, experiment("dpo"), "cpu", start=before.out)
    learned = load_file(before.out / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B"
    assert torch.equal(dict(model.named_parameters())[f"{name}.default.weight"], learned[f"{name}.weight"])
    work, _ = train(tmp_path / "after", pairs[0], tiny_base, experiment("dpo", max_steps=4), start=before.out)
    first = json.loads((work.out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)  # the reference is the adapter, not the base
    changed = load_file(work.out / "adapter_model.safetensors")
    assert not torch.equal(changed[f"{name}.weight"], learned[f"{name}.weight"])


# --- replay -----------------------------------------------------------------------------------------------------------


def sft_with_replay(weight):
    return ExperimentSettings.model_validate(
        {"technique": "lora", "data": {"weights": {"replay": weight}}, "training": {**FAST, "max_length": 64}}
    )


def test_replayed_texts_train_with_the_answers_and_never_validate(tmp_path, tiny_base):
    data, report = make(tmp_path, tiny_base, sft_with_replay(0.5), text_rows())
    assert {name: check["passed"] for name, check in report["checks"].items() if not check["passed"]} == {}
    learned, validation = read_split(data, "train"), read_split(data, "validation")
    blocks = [row for row in learned if row["source"] == "replay"]
    assert {row["source"] for row in learned} == {"human", "replay"}
    assert {row["source"] for row in validation} == {"human"}
    end = load_tokenizer(tiny_base).eos_token_id
    kept = len(text_rows()) - len(report["left_out"])
    assert sum(row["labels"][1:].count(end) for row in blocks) == round(0.5 * kept)
    assert all(row["labels"][1:] == row["input_ids"][1:] and len(row["input_ids"]) <= 64 for row in blocks)
    work, _ = train(tmp_path / "adapter", data, tiny_base, sft_with_replay(0.5))
    assert (work.out / "adapter_model.safetensors").is_file()


def test_replay_without_texts_raises_a_clear_error(tmp_path, tiny_base):
    empty = pa.Table.from_pylist(text_rows(1)).slice(0, 0)
    with pytest.raises(UserError, match=r"replay is 0.5, but there is nothing to replay: 0 texts"):
        make(tmp_path, tiny_base, sft_with_replay(0.5), empty)
