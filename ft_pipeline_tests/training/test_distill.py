"""Objective distill: a teacher's distributions, the rows made from them, and a student that learns them."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring import teacher_distributions
from ft_pipeline.execution.workers.accelerate_config import NUM_PROCESSES
from ft_pipeline.execution.workers.launchers import AccelerateLauncher
from ft_pipeline.execution.workers.supervisor import WorkerJob, run_worker
from ft_pipeline.models.chat import prompt_and_target
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.steps import merged_model
from ft_pipeline.store.text_redaction import PLACEHOLDER, ErasedTexts
from ft_pipeline.training import adapter, training_data
from ft_pipeline.training.memory.estimate import estimate_experiment
from ft_pipeline.training.token_rows import failures, read_split
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.distribution_loss import distribution_columns
from ft_pipeline_tests.tiny import save_tiny, tiny_model, tiny_tokenizer
from ft_pipeline_tests.training.subject import (
    PAIRS,
    SHARES,
    job,
    known_rows,
    make_training_data,
    settings,
    support_rows,
    write_conversations,
)
from ft_pipeline_tests.training.test_ranks import ROOT, losses

SYSTEM = "You are the shop."


def experiment(technique="full", distill=None, **training):
    return ExperimentSettings.model_validate(
        {
            "objective": "distill",
            "technique": technique,
            "distill": {
                "teacher": "larger",
                "max_new_tokens": 64,
                "top_k": 16,
                "answers_per_prompt": 2,
                "temperature": 0.5,
            }
            | (distill or {}),
            "training": {
                "num_train_epochs": 6,
                "per_device_train_batch_size": 8,
                "learning_rate": 3e-3,
                "eval_steps": 12,
            }
            | training,
        }
    )


def unlabelled_rows(count=30):
    return [
        {
            "id": f"{number:064x}",
            "file": "inbox.jsonl",
            "row": number + 1,
            "messages": [{"role": "user", "content": f"{PAIRS[number % len(PAIRS)][0]} Tell me, take {number}."}],
            "tools": None,
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tiny_base):
    return train_teacher(tmp_path_factory.mktemp("teacher"), tiny_base)


def train_teacher(folder, base):
    """A tiny model that has learned to answer, so that its answers end."""
    wanted = settings(
        "full", num_train_epochs=20, eval_steps=1000, early_stopping_patience=0, lr_scheduler_type="constant"
    )
    data = make_training_data(folder, base, support_rows(2), wanted)
    work = job("adapter", folder / "adapter", wanted, {"training_data": data, "base_model": base})
    adapter.run(work)
    return work.out


def ask(folder, teacher, student, wanted, rows=None, conversations=None, variant=None):
    """The job of a teacher_distributions artifact, and its summary."""
    (folder / "unlabelled").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows or unlabelled_rows()), folder / "unlabelled" / "rows.parquet")
    inputs = {
        "base_model": teacher,
        "student": student,
        "unlabelled": folder / "unlabelled",
        "conversations": write_conversations(folder / "conversations", conversations or known_rows()),
    }
    work = job("teacher_distributions", folder / "distributions", wanted, inputs)
    work.config.update(
        distill=wanted.distill.model_dump(mode="json"), variant=variant or {}, system_prompt=None, seed=0
    )
    return work, teacher_distributions.run(work)


def make(folder, asked, student, wanted):
    inputs = {
        "teacher_distributions": asked.out,
        "conversations": asked.inputs["conversations"],
        "base_model": student,
    }
    work = job("training_data", folder / "data", wanted, inputs)
    work.config["data"] = SHARES
    return work.out, training_data.run(work)["audit"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory, teacher, tiny_base):
    return ask(tmp_path_factory.mktemp("asked"), teacher, tiny_base, experiment())


@pytest.fixture(scope="module")
def made(tmp_path_factory, asked, tiny_base):
    return make(tmp_path_factory.mktemp("made"), asked[0], tiny_base, experiment())


def test_every_answer_is_kept_or_set_aside_with_its_reason(asked):
    work, summary = asked
    kept = pq.read_table(work.out / "rows.parquet").to_pylist()
    aside = pq.read_table(work.out / "set_aside.parquet").to_pylist()
    assert summary["answers"] == 60 == len(kept) + len(aside)
    assert summary["kept"] == len(kept) > 20 and summary["set_aside"] == len(aside)
    assert {(row["id"], row["sample"]) for row in [*kept, *aside]} == {
        (row["id"], sample) for row in unlabelled_rows() for sample in range(2)
    }
    assert sum(summary["reasons"].values()) == len(aside)
    assert any(f"{len(kept)} of 60 answers kept" in line for line in work.report.lines)
    for row in kept:
        tokens = len(row["target_ids"])
        assert (len(row["top_ids"]), len(row["top_log_probabilities"]), len(row["rest"])) == (
            16 * tokens,
            16 * tokens,
            tokens,
        )


def test_the_teacher_reads_its_prompt_and_the_student_does_not(tmp_path, teacher, tiny_base):
    """The stored distributions are those of the teacher's own forward pass after the prompt of the variant."""
    wanted = experiment(distill={"answers_per_prompt": 1, "temperature": 0.0})
    variant = {"system_prompt": SYSTEM, "few_shot": 2}
    work, _ = ask(tmp_path, teacher, teacher, wanted, unlabelled_rows(12), variant=variant)
    row = pq.read_table(work.out / "rows.parquet").to_pylist()[0]
    tokenizer, model = load_tokenizer(teacher), load_model(teacher, "cpu")
    prompt = teacher_distributions.read_prompt(work.inputs, variant, 0)
    answered = [*row["prompt_messages"], {"role": "assistant", "content": row["answer"]}]
    context, target = prompt_and_target(tokenizer, prompt.prepend_to(answered))
    assert SYSTEM in context and context.count("<|im_start|>assistant") == 3
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, target)]
    assert row["target_ids"] == ids[1]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[0] + ids[1]])).logits[0, len(ids[0]) - 1 : -1]
    expected = torch.log_softmax(logits.float(), 1).topk(16, 1).values
    stored = torch.tensor(row["top_log_probabilities"]).reshape(-1, 16)
    torch.testing.assert_close(stored, expected, rtol=0.05, atol=0.05)  # the prefix is computed once, in bf16
    rest = 1 - torch.tensor(row["top_log_probabilities"]).reshape(-1, 16).exp().sum(1)
    torch.testing.assert_close(torch.tensor(row["rest"]), rest, rtol=0.01, atol=1e-4)
    folder, _ = make(tmp_path, work, teacher, wanted)
    for split in ("train", "validation"):
        assert all(SYSTEM not in tokenizer.decode(row["input_ids"]) for row in read_split(folder, split))


def test_the_training_rows_pass_the_audit_and_carry_a_distribution_per_trained_token(made):
    folder, report = made
    assert failures(report) == []
    for split in ("train", "validation"):
        rows = read_split(folder, split)
        assert rows
        for row in rows:
            trained = sum(label != MASKED for label in row["labels"])
            assert len(row["rest"]) == trained and len(row["top_ids"]) == 16 * trained
            assert row["source"] == "teacher"


def test_a_long_answer_is_listed_with_the_table_of_its_prompt(tmp_path, asked, made, tiny_base):
    lengths = [len(row["input_ids"]) for split in ("train", "validation") for row in read_split(made[0], split)]
    wanted = experiment(long_rows="skip", max_length=max(lengths) - 1)
    work, _ = asked
    answers = pq.read_table(work.out / "rows.parquet").to_pylist()
    of_conversations = [{**row, "id": f"c{row['id'][1:]}", "table": "alpaca", "split": "train"} for row in answers]
    inputs = {**work.inputs, "teacher_distributions": tmp_path, "base_model": tiny_base}
    pq.write_table(pa.Table.from_pylist([*answers, *of_conversations]), tmp_path / "rows.parquet")
    data = job("training_data", tmp_path / "data", wanted, inputs)
    data.config["data"] = SHARES
    report = training_data.run(data)["audit"]
    long = [(row["table"], row["file"], row["row"]) for row in report["left_out"] if row["code"] == "over_length"]
    assert {table for table, _, _ in long} == {"unlabelled", "alpaca"}
    assert len(set(long)) == len(long) == report["long_rows"]["left_out"]


@pytest.mark.parametrize("technique", ["full", pytest.param("lora", marks=pytest.mark.long)])
def test_a_student_moves_towards_its_teacher(technique, tmp_path, made, tiny_base):
    folder, _ = made
    work = job("adapter", tmp_path, experiment(technique), {"training_data": folder, "base_model": tiny_base})
    summary = adapter.run(work)
    assert summary["best_eval_loss"] < 0.7 * summary["first_eval_loss"]
    logged = [json.loads(line) for line in (work.out / "metrics.jsonl").read_text().splitlines()]
    assert all(entry["loss"] >= 0 for entry in logged if "loss" in entry)


def test_prompts_of_conversations_keep_their_split(tmp_path, teacher, tiny_base):
    wanted = experiment(distill={"rows": ["conversations"], "answers_per_prompt": 1, "temperature": 0.0})
    work, summary = ask(tmp_path, teacher, tiny_base, wanted)
    assert summary["answers"] == len(known_rows())
    folder, report = make(tmp_path, work, tiny_base, wanted)
    splits = {row["id"]: row["split"] for row in known_rows()}
    for split in ("train", "validation"):
        assert {splits[row["id"]] for row in read_split(folder, split)} == {split}
    assert report["left_out"] == []


def test_an_erased_prompt_leaves_no_token_of_its_answers(tmp_path, asked):
    path = asked[0].out / "rows.parquet"
    before = pq.read_table(path).to_pylist()
    prompt = before[0]
    erased = ErasedTexts({prompt["id"]: "erased"}, origins=frozenset({("unlabelled", prompt["file"], prompt["row"])}))
    assert erased.redact_file(path, tmp_path / "rows.parquet")
    for row, now in zip(before, pq.read_table(tmp_path / "rows.parquet").to_pylist(), strict=True):
        if row["id"] == prompt["id"]:
            assert now["answer"] == PLACEHOLDER and row["prompt_messages"] != now["prompt_messages"]
            assert [now[name] for name in ("target_ids", "top_ids", "top_log_probabilities", "rest")] == [[]] * 4
        else:
            assert now == row


def test_an_answer_that_repeats_an_erased_text_loses_its_tokens(tmp_path, asked, made):
    """A teacher may repeat an example of its prompt, whose row is then erased."""
    rows = pq.read_table(asked[0].out / "rows.parquet").to_pylist()
    text = rows[0]["answer"]
    erased = ErasedTexts({"another row": "erased"}, frozenset({text}), frozenset({text}))
    for number, path in enumerate((asked[0].out / "rows.parquet", made[0] / "train.parquet")):
        assert erased.redact_file(path, tmp_path / f"{number}.parquet")
        before, after = (pq.read_table(file).to_pylist() for file in (path, tmp_path / f"{number}.parquet"))
        assert [row["rest"] == [] for row in after] == [text in row["answer"] for row in before]
        tokens = ("target_ids", "input_ids", "labels", "top_ids", "top_log_probabilities")
        assert all(row[name] == [] for row in after if not row["rest"] for name in tokens if name in row)


def test_logits_that_no_token_has_are_not_stored():
    columns = distribution_columns(torch.tensor([[1.0, 2.0, 9.0]])[:, :2], 5)
    assert columns["top_ids"].tolist() == [1, 0] and columns["rest"].tolist() == [0.0]


def test_a_teacher_with_another_vocabulary_is_refused(tmp_path, tiny_base):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<other>"])
    other = tiny_model(tmp_path / "other")
    save_tiny(load_model(other, "cpu"), tokenizer, other)
    with pytest.raises(UserError, match=r"The teacher's vocabulary \(\d+ tokens\) differs .* Choose a teacher"):
        ask(tmp_path, other, tiny_base, experiment())


def test_a_killed_teacher_asks_only_for_missing_answers(tmp_path, teacher, tiny_base):
    work, first = ask(tmp_path, teacher, tiny_base, experiment(), unlabelled_rows(8))
    content = (work.out / "rows.parquet").read_bytes()
    _, second = ask(tmp_path, teacher, tiny_base, experiment(), unlabelled_rows(8))
    assert (first["resumed"], second["resumed"]) == (0, 16)
    assert (work.out / "rows.parquet").read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"distill": None}, "objective 'distill' needs a teacher"),
        ({"distill": {}}, "`distill.teacher: own_prompt` needs `distill.variant`"),
        ({"distill": {"variant": "a", "revision": "main"}}, "`distill.revision` is only for another model"),
        ({"distill": {"variant": "a", "temperature": 0, "answers_per_prompt": 2}}, "at temperature 0 all answers are"),
        ({"objective": "sft", "distill": {"variant": "a"}}, "objective 'sft' has no teacher. Remove `distill`"),
        ({"distill": {"variant": "a"}, "data": {"weights": {"replay": 1}}}, "only on the answers of its teacher"),
    ],
)
def test_wrong_settings_are_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        ExperimentSettings.model_validate({"objective": "distill", **changes})


def test_settings_without_distill_are_written_as_before():
    assert "distill" not in ExperimentSettings().model_dump(mode="json")


def test_the_estimate_has_room_for_a_second_form_of_the_logits():
    model = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50_000,
    }
    sft = ExperimentSettings.model_validate({"technique": "lora"})
    totals = [estimate_experiment(wanted, model, 512, None)["total_gb"] for wanted in (experiment("lora"), sft)]
    assert (totals[0] - totals[1]) * 1e9 == pytest.approx(128 * 50_000 * 4)


def test_a_students_adapter_is_merged_as_any_other(tmp_path, made, tiny_base):
    folder, _ = made
    wanted = experiment("lora", max_steps=4)
    trained = job("adapter", tmp_path / "adapter", wanted, {"training_data": folder, "base_model": tiny_base})
    adapter.run(trained)
    inputs = {"adapter": trained.out, "base_model": tiny_base, "training_data": folder}
    assert merged_model.run(job("merged_model", tmp_path / "merged", wanted, inputs))["passed"]


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_give_the_losses_of_one(tmp_path, made, tiny_base, monkeypatch):
    wanted = experiment("lora", per_device_train_batch_size=3, max_steps=6, eval_steps=2, optim="adamw_torch")
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")  # in bf16, products may depend on the shape of a batch
    inputs = {"training_data": made[0], "base_model": tiny_base}
    alone, together = (job("adapter", tmp_path / name, wanted, inputs) for name in ("alone", "together"))
    adapter.run(alone)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv(NUM_PROCESSES, "2")
    shared = WorkerJob(
        "adapter", "adapter", together.config, inputs, tmp_path / "together", together.out, together.work
    )
    assert run_worker(None, shared, AccelerateLauncher()).summary["processes"] == 2
    for name in ("loss", "eval_loss"):
        assert losses(together.out, name) == pytest.approx(losses(alone.out, name), rel=1e-3)
