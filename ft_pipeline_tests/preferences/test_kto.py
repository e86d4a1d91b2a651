"""kto: which rows it trains on, its loss, how it compares with TRL's, and what it learns from single thumbs."""

import json
import math
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.accelerate_config import ACCELERATE_CONFIG, NUM_PROCESSES
from ft_pipeline.execution.workers.launchers import AccelerateLauncher
from ft_pipeline.execution.workers.supervisor import WorkerJob, run_worker
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.preferences.kto import (
    MISMATCHED,
    UP,
    ThumbTrainer,
    collate_thumbs,
    describe_balance,
    held_out_metrics,
    thumb_losses,
    with_mismatched_answers,
    with_reference,
)
from ft_pipeline.preferences.settings import KtoSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter, training_data
from ft_pipeline.training.token_rows import failures, read_split
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.arguments import training_arguments
from ft_pipeline.training.trainer.loss import sequence_log_probabilities
from ft_pipeline.training.trainer.token_trainer import TrainerSetup
from ft_pipeline_tests.training.subject import (
    SHARES,
    conversation,
    feedback_rows,
    job,
    known_rows,
    write_conversations,
)
from ft_pipeline_tests.training.test_ranks import ROOT, losses

FAST = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "eval_steps": 4}


def experiment(technique="lora", kto=None, **training):
    return ExperimentSettings.model_validate(
        {"objective": "kto", "technique": technique, "kto": kto or {}, "training": {**FAST, **training}}
    )


def make(folder, base, settings, rows, conversations=None):
    """The folder and the token audit of a training_data artifact of thumbs."""
    (folder / "feedback").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "feedback" / "rows.parquet")
    known = write_conversations(folder / "conversations", conversations or known_rows())
    inputs = {"conversations": known, "base_model": base, "feedback": folder / "feedback"}
    work = job("training_data", folder / "data", settings, inputs)
    work.config["data"] = SHARES
    return work.out, training_data.run(work)["audit"]


@pytest.fixture(scope="module")
def thumbs(tmp_path_factory, tiny_base):
    return make(tmp_path_factory.mktemp("thumbs"), tiny_base, experiment(), feedback_rows())


def train(folder, data, base, settings):
    work = job("adapter", folder, settings, {"training_data": data, "base_model": base})
    return work, adapter.run(work)


def log_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_each_thumb_gives_a_row_whose_answer_is_trained(thumbs, tiny_base):
    folder, report = thumbs
    assert failures(report) == [] and report["left_out"] == []
    rows = read_split(folder, "train") + read_split(folder, "validation")
    labels = {row["id"]: row["label"] for row in feedback_rows()}
    assert {row["id"]: row["source"] == UP for row in rows} == labels
    assert {name.partition("/")[0] for name in report["rows"]} == {"up", "down"}
    tokenizer = load_tokenizer(tiny_base)
    for row in rows:
        trained = tokenizer.decode([label for label in row["labels"] if label != MASKED])
        assert trained.endswith("<|im_end|>") and trained.startswith("No idea") != labels[row["id"]]


def test_only_a_validation_row_may_show_a_validation_row(tmp_path, tiny_base):
    """A call with a thumb up is a conversation, too. If both are validation rows, the thumb is not left out."""
    rows = feedback_rows()
    split = {
        row["id"]: name
        for name in ("train", "validation")
        for row in read_split(make(tmp_path / "a", tiny_base, experiment(), rows)[0], name)
    }
    shown = {name: next(row for row in rows if split[row["id"]] == name) for name in ("train", "validation")}
    for held_out in ("validation", "test"):
        known = [
            conversation(700 + number, [(row["prompt_messages"][0]["content"], "Something else.")], held_out)
            for number, row in enumerate(shown.values())
        ]
        _, report = make(tmp_path / held_out, tiny_base, experiment(), rows, [*known_rows(), *known])
        left_out = {row["row"] for row in report["left_out"]}  # also rows with most words of a question
        assert shown["train"]["row"] in left_out
        assert (shown["validation"]["row"] in left_out) == (held_out == "test")
        assert {row["code"] for row in report["left_out"]} == {"train_test_overlap"}


def test_thumbs_of_one_kind_raise_a_clear_error(tmp_path, tiny_base):
    only_up = [row for row in feedback_rows() if row["label"]]
    with pytest.raises(UserError, match="No train row with a thumb down: 12 rows in data/raw/feedback"):
        make(tmp_path, tiny_base, experiment(), only_up)


def test_an_answer_is_paired_with_the_prompt_of_another_row():
    def row(name, prompt, answer):
        ids = [*prompt, *answer]
        return {"id": name, "input_ids": ids, "labels": [MASKED] * len(prompt) + answer}

    rows = [row("c", [1, 2], [9]), row("a", [3], [7, 8]), row("b", [3], [5, 6])]
    made = with_mismatched_answers(rows, max_length=3)
    found = {each["id"]: (each[f"{MISMATCHED}ids"], each[f"{MISMATCHED}labels"]) for each in made}
    assert [each["id"] for each in made] == ["c", "a", "b"]
    assert found == {
        "a": ([3, 9], [MASKED, 9]),  # the last row comes before the first one
        "b": ([3, 9], [MASKED, 9]),  # not that of `a`, which has the same prompt
        "c": ([1, 2, 5], [MASKED, MASKED, 5]),  # cut at its end
    }
    assert with_mismatched_answers(rows[:1], 3)[0][f"{MISMATCHED}ids"] == [1, 2, 9]
    alike = with_mismatched_answers([row("a", [3], [7]), row("b", [3], [8])], 3)
    assert {each[f"{MISMATCHED}ids"][1] for each in alike} <= {7, 8}


# --- the loss ---------------------------------------------------------------------------------------------------------


def perturbed(base):
    model = load_model(base, "cpu", dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.sin(torch.arange(parameter.numel())).view_as(parameter))
    return model


@pytest.mark.parametrize(
    "kto", [{}, {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}, {"loss_type": "apo_zero_unpaired"}]
)
def test_loss_and_kl_equal_those_of_trl(kto, tmp_path, tiny_base, monkeypatch):
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    settings = KtoSettings(**kto)
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt_messages"][0]["content"]}],
            "completion": [{"role": "assistant", "content": row["completion"][0]["content"]}],
            "label": row["label"],
        }
        for row in feedback_rows(6)
    ]
    arguments = KTOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=6,
        report_to=[],
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        **settings.model_dump(),
    )
    reference, policy = load_model(tiny_base, "cpu", dtype=torch.float32), perturbed(tiny_base)
    theirs = KTOTrainer(
        policy, reference, arguments, train_dataset=Dataset.from_list(rows), processing_class=load_tokenizer(tiny_base)
    )
    (batch,) = theirs.get_train_dataloader()
    expected = theirs.compute_loss(theirs.model, batch)

    def ours_of(prefix):
        masks = (batch[f"{prefix}completion_mask"].tolist(), batch[f"{prefix}attention_mask"].tolist())
        return [
            {
                "input_ids": [i for i, a in zip(ids, attended, strict=True) if a],
                "labels": [i if c else MASKED for i, c, a in zip(ids, completed, attended, strict=True) if a],
            }
            for ids, completed, attended in zip(batch[f"{prefix}input_ids"].tolist(), *masks, strict=True)
        ]

    own = [
        {**row, "id": str(number), "source": UP if is_good else "down"}
        for number, (row, is_good) in enumerate(zip(ours_of(""), batch["label"].tolist(), strict=True))
    ]
    kl = 0.0
    if settings.loss_type == "kto":
        own = with_mismatched_answers(own, 1000)
        assert [row[f"{MISMATCHED}ids"] for row in own] == [row["input_ids"] for row in ours_of("KL_")]
    made = collate_thumbs(with_reference(reference, own, 0, 6), 0)
    with torch.no_grad():
        gains = sequence_log_probabilities(policy, made) - made["reference"]
        if settings.loss_type == "kto":
            other = {name.removeprefix(MISMATCHED): made[name] for name in made if name.startswith(MISMATCHED)}
            kl = max(0.0, float((sequence_log_probabilities(policy, other) - other["reference"]).mean()))
            assert theirs._metrics["eval"]["kl"] == [pytest.approx(kl, abs=1e-4)]
    ours = thumb_losses(gains, made["is_good"], kl, settings).mean()
    assert float(ours) == pytest.approx(expected.item(), abs=1e-5)
    up = settings.beta * float(gains[made["is_good"]].mean())
    assert theirs._metrics["eval"]["rewards/chosen"] == [pytest.approx(up, abs=1e-4)]


def test_the_losses_are_the_formulas_of_the_papers():
    gains, is_good = torch.tensor([3.0, -2.0]), torch.tensor([True, False])

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    weighted = KtoSettings(beta=0.5, desirable_weight=2, undesirable_weight=3)
    expected = [2 * (1 - sigmoid(0.5 * (3 - 1))), 3 * (1 - sigmoid(0.5 * (1 + 2)))]
    assert thumb_losses(gains, is_good, 1.0, weighted).tolist() == pytest.approx(expected)
    zero = KtoSettings(beta=0.5, loss_type="apo_zero_unpaired")
    assert thumb_losses(gains, is_good, 0.0, zero).tolist() == pytest.approx([1 - sigmoid(1.5), sigmoid(-1.0)])


def test_the_metrics_count_pairs_of_a_good_and_a_bad_answer():
    found = held_out_metrics([2.0, 0.0, 1.0, 0.0], [True, True, False, False], [3.0, -1.0], KtoSettings(beta=0.5))
    assert found["eval_kl"] == 1.0 and found["eval_accuracy"] == (1 + 1 + 0 + 0.5) / 4
    assert (found["eval_up_reward"], found["eval_down_reward"], found["eval_margin"]) == (0.5, 0.25, 0.25)
    moved_back = held_out_metrics([1.0, 1.0], [True, True], [-4.0], KtoSettings())
    assert moved_back["eval_kl"] == 0.0 and "eval_accuracy" not in moved_back
    assert "eval_kl" not in held_out_metrics([1.0], [True], [], KtoSettings(loss_type="apo_zero_unpaired"))


def test_the_balance_of_the_weights_is_said():
    line = describe_balance(["up"] * 30 + ["down"] * 10, KtoSettings(undesirable_weight=2.5))
    assert line.startswith("30 thumbs up and 10 thumbs down; with their weights, thumbs up count 1.20 times as much")


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("technique", "loss_type"),
    [
        ("lora", "kto"),
        pytest.param("qlora", "kto", marks=pytest.mark.long),
        pytest.param("full", "kto", marks=pytest.mark.long),
        # Its loss is that of TRL, see above.
        pytest.param("lora", "apo_zero_unpaired", marks=pytest.mark.long),
    ],
)
def test_kto_learns_which_answers_are_good(technique, loss_type, tmp_path, thumbs, tiny_base):
    rate = 5e-4 if technique == "full" else 5e-3
    settings = experiment(technique, {"loss_type": loss_type}, learning_rate=rate)
    work, summary = train(tmp_path, thumbs[0], tiny_base, settings)
    log = log_of(work.out)
    held_out = [entry for entry in log if "eval_accuracy" in entry]
    assert held_out[0]["eval_loss"] == pytest.approx(0.5, abs=1e-6)  # the reference is the start, to the last digit
    assert (held_out[0]["eval_accuracy"], held_out[0]["eval_margin"]) == (0.5, 0.0)
    assert summary["best_eval_loss"] < 0.49 and held_out[-1]["eval_accuracy"] > 0.9
    for entry in held_out:
        assert entry["eval_margin"] == pytest.approx(entry["eval_up_reward"] - entry["eval_down_reward"])
    kls = [entry["kl"] for entry in log if "kl" in entry]
    assert (len(kls) > 0) == (loss_type == "kto") and all(kl >= 0 for kl in kls)


def test_the_kl_of_a_step_does_not_depend_on_how_it_is_divided(tmp_path, thumbs, tiny_base):
    settings = experiment("full", learning_rate=1e-3)
    rows = read_split(thumbs[0], "train")[:8]
    arguments = training_arguments(settings.training, tmp_path, "cpu", torch.float32)
    model = load_model(tiny_base, "cpu", dtype=torch.float32)
    setup = TrainerSetup(settings, model, load_tokenizer(tiny_base), rows, rows, arguments)
    trainer = ThumbTrainer.for_experiment(setup)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    rows = list(trainer.train_dataset)
    whole, half = ([trainer._collate(rows[at : at + size]) for at in range(0, 8, size)] for size in (8, 4))
    kl = trainer._estimate_kl(whole)
    assert trainer._estimate_kl(half) == pytest.approx(kl, rel=1e-3)
    filler = trainer._collate([])
    assert trainer._estimate_kl([*whole, filler]) == kl


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_give_the_losses_of_one(sharded, tmp_path, thumbs, tiny_base, monkeypatch):
    settings = experiment(
        per_device_train_batch_size=3, max_steps=6, eval_steps=2, optim="adamw_torch", learning_rate=5e-3
    )
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")  # in bf16, products may depend on the shape of a batch
    inputs = {"training_data": thumbs[0], "base_model": tiny_base}
    alone, together = (job("adapter", tmp_path / name, settings, inputs) for name in ("alone", "together"))
    adapter.run(alone)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if sharded:
        config = tmp_path / "fsdp.yaml"
        fsdp = {"fsdp_version": 2, "fsdp_reshard_after_forward": True}
        config.write_text(yaml.safe_dump({"distributed_type": "FSDP", "num_processes": 2, "fsdp_config": fsdp}))
        monkeypatch.setenv(ACCELERATE_CONFIG, str(config))
    else:
        monkeypatch.setenv(NUM_PROCESSES, "2")
    shared = WorkerJob(
        "adapter", "adapter", together.config, inputs, tmp_path / "together", together.out, together.work
    )
    assert run_worker(None, shared, AccelerateLauncher()).summary["processes"] == 2
    for name in ("loss", "eval_loss"):
        assert losses(together.out, name) == pytest.approx(losses(alone.out, name), rel=1e-3)
    assert losses(together.out, "kl") == pytest.approx(losses(alone.out, "kl"), rel=0.15, abs=0.05)
    assert losses(together.out, "eval_accuracy") == pytest.approx(losses(alone.out, "eval_accuracy"), abs=0.1)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="objective 'sft' reads no thumbs"):
        ExperimentSettings.model_validate({"kto": {"beta": 0.2}})
    with pytest.raises(ValueError, match="objective 'kto' does not work with technique 'prompt_tuning'"):
        ExperimentSettings.model_validate({"objective": "kto", "technique": "prompt_tuning"})
    assert "kto" not in ExperimentSettings().model_dump()
