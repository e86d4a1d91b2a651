"""The local teacher: its answers, and that a resumed run generates only the missing ones."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from ft_pipeline.distillation import teacher
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import declares_tools
from ft_pipeline.job import Job
from ft_pipeline.models import base_model
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline_tests.distillation.material import Recorder, teacher_job, user, write_conversations, write_unlabelled
from ft_pipeline_tests.tiny import tiny_model

PROMPTS = [f"My order {number} is late, and nobody tells me where it is{'.' * number}" for number in range(1, 11)]
SETTINGS = {"system_prompt": "Be short.", "few_shot": 1, "max_new_tokens": 12, "batch_size": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from a second thread, which spins while others work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    return {
        "unlabelled": write_unlabelled(root / "unlabelled", PROMPTS),
        "conversations": write_conversations(root / "conversations"),
        "base_model": tiny_model(root / "base_model"),
    }


@pytest.fixture(scope="module")
def uninterrupted(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run that was not interrupted."""
    job = teacher_job(tmp_path_factory.mktemp("uninterrupted"), inputs, **SETTINGS)
    job.out.joinpath("summary.json").write_text(json.dumps(teacher.run(job)))
    return job


def answers_of(job: Job) -> list[dict]:
    return pq.read_table(job.out / "answers.parquet").to_pylist()


def test_every_prompt_is_answered_in_order_with_its_origin(uninterrupted: Job) -> None:
    rows = answers_of(uninterrupted)
    assert [plain(row["prompt_messages"]) for row in rows] == [user(text) for text in PROMPTS]
    assert [(row["id"], row["file"], row["row"]) for row in rows] == [(f"u{n}", "inbox.jsonl", n) for n in range(1, 11)]
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert all(0 < row["answer_tokens"] <= 12 < row["prompt_tokens"] for row in rows)
    summary = json.loads((uninterrupted.out / "summary.json").read_text())
    assert (summary["prompts"], summary["answered"], summary["resumed"]) == (10, 10, 0)
    assert summary["answer_tokens"] == sum(row["answer_tokens"] for row in rows)
    assert isinstance(uninterrupted.report, Recorder)
    assert uninterrupted.report.steps == [(4, 10), (8, 10), (10, 10)]


def test_the_prompt_and_the_sampling_settings_are_recorded(uninterrupted: Job, inputs: dict[str, Path]) -> None:
    recorded = json.loads((uninterrupted.out / "teacher.json").read_text(encoding="utf-8"))
    assert recorded["system_prompt"] == "Be short."
    assert recorded["sampling"] == {"temperature": 0.0, "max_new_tokens": 12, "seed": 0}
    assert recorded["template_sha256"] == base_model.template_sha256(inputs["base_model"])
    train = [plain(row["messages"]) for row in pq.read_table(inputs["conversations"] / "rows.parquet").to_pylist()]
    assert len(recorded["examples"]) == 1
    assert recorded["examples"][0] in train


def test_a_resumed_run_generates_only_the_missing_answers(
    uninterrupted: Job, inputs: dict[str, Path], tmp_path: Path
) -> None:
    job = teacher_job(tmp_path, inputs, **SETTINGS)
    lines = (uninterrupted.work / "answers.jsonl").read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:4])
    (job.work / "answers.jsonl").write_bytes(kept + lines[4][:25])
    summary = teacher.run(job)
    assert summary["resumed"] == 4
    assert isinstance(job.report, Recorder)
    assert job.report.steps == [(8, 10), (10, 10)]
    assert answers_of(job) == answers_of(uninterrupted)
    journal = (job.work / "answers.jsonl").read_bytes()
    assert journal.startswith(kept)
    assert len(journal.splitlines()) == 10


def test_a_finished_journal_needs_no_model(uninterrupted: Job, inputs: dict[str, Path], tmp_path: Path) -> None:
    job = teacher_job(tmp_path, inputs, **SETTINGS)
    shutil.copy(uninterrupted.work / "answers.jsonl", job.work)
    assert teacher.run(job)["resumed"] == 10
    assert answers_of(job) == answers_of(uninterrupted)
    assert isinstance(job.report, Recorder)
    assert job.report.steps == []


def test_a_prompt_that_does_not_fit_the_context_is_not_answered(inputs: dict[str, Path], tmp_path: Path) -> None:
    prompts = ["Where is it?", "and then " * 600]
    unlabelled = write_unlabelled(tmp_path / "unlabelled", prompts)
    job = teacher_job(tmp_path, {**inputs, "unlabelled": unlabelled}, few_shot=0, max_new_tokens=4)
    summary = teacher.run(job)
    assert (summary["prompts"], summary["answered"]) == (2, 1)
    assert [row["finish_reason"] == "context" for row in answers_of(job)] == [False, True]


def test_too_few_examples_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="few_shot is 9"):
        teacher.run(teacher_job(tmp_path, inputs, **{**SETTINGS, "few_shot": 9}))


def test_examples_can_be_taken_from_a_single_file(inputs: dict[str, Path]) -> None:
    conversations = inputs["conversations"]
    from_there = TeacherSettings(few_shot=2, few_shot_from="alpaca/support.jsonl")
    assert (
        TeacherPrompt.of(from_there, conversations).examples
        == TeacherPrompt.of(TeacherSettings(few_shot=2), conversations).examples
    )
    for elsewhere in ("alpaca/other.jsonl", "sharegpt/support.jsonl"):
        with pytest.raises(UserError, match=f"few_shot_from is {elsewhere}: few_shot is 2, but the train split has 0"):
            TeacherPrompt.of(TeacherSettings(few_shot=2, few_shot_from=elsewhere), conversations)
    with pytest.raises(ValidationError, match="few_shot_from"):
        TeacherSettings(few_shot_from="../secret.jsonl")


def test_a_new_file_changes_the_prompt_unless_few_shot_from_is_set(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The hash of the prompt is part of every request's key: a changed prompt is requested, and paid for, again."""
    old = pq.read_table(inputs["conversations"] / "rows.parquet")
    new = [{**row, "id": f"new-{row['id']}", "file": "new.jsonl"} for row in old.to_pylist()]
    pq.write_table(pa.concat_tables([old, pa.Table.from_pylist(new, old.schema)]), tmp_path / "rows.parquet")

    def prompts(settings: TeacherSettings) -> set[str]:
        return {TeacherPrompt.of(settings, folder).prompt_sha256 for folder in (inputs["conversations"], tmp_path)}

    assert len(prompts(TeacherSettings(few_shot=2))) == 2
    assert len(prompts(TeacherSettings(few_shot=2, few_shot_from="alpaca/support.jsonl"))) == 1


def test_the_same_seed_samples_the_same_answers(inputs: dict[str, Path], tmp_path: Path) -> None:
    answers = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        job = teacher_job(tmp_path / name, inputs, **{**SETTINGS, "temperature": 1.0, "seed": seed, "few_shot": 0})
        teacher.run(job)
        answers[name] = [row["answer"] for row in answers_of(job)]
    assert answers["a"] == answers["b"] != answers["c"]


def test_several_answers_per_prompt_differ_and_can_be_resumed(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Each sample has its own seed; a resumed run generates only the missing ones."""
    settings = {**SETTINGS, "temperature": 1.0, "answers_per_prompt": 3, "few_shot": 0, "batch_size": 16}
    job = teacher_job(tmp_path / "a", inputs, **settings)
    assert teacher.run(job)["wanted"] == 30
    rows = answers_of(job)
    assert [(row["id"], row["sample"]) for row in rows] == [(f"u{n}", s) for n in range(1, 11) for s in range(3)]
    assert any(len({row["answer"] for row in rows[begin : begin + 3]}) == 3 for begin in range(0, 30, 3))
    resumed = teacher_job(tmp_path / "b", inputs, **settings)
    lines = (job.work / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (resumed.work / "answers.jsonl").write_bytes(b"".join(lines[:20]))
    assert teacher.run(resumed)["resumed"] == 20
    assert answers_of(resumed) == rows


def test_an_endpoint_without_its_key_is_refused_before_any_request(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    endpoint = {"url": "http://127.0.0.1:9/v1", "api_key_env": "TEACHER_KEY"}
    job = teacher_job(tmp_path, inputs, model="big", few_shot=1, endpoint=endpoint)
    with pytest.raises(UserError, match="The environment variable TEACHER_KEY"):
        teacher.run(job)


class KillAt(Recorder):
    """Kills its own process once three answers are reported."""

    def progress(self, step: int, total: int, **values: float) -> None:
        if step >= 3:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_resumes_and_gives_the_same_answers(inputs: dict[str, Path], tmp_path: Path) -> None:
    settings = {**SETTINGS, "batch_size": 1}
    whole = teacher_job(tmp_path / "whole", inputs, **settings)
    teacher.run(whole)
    killed = teacher_job(tmp_path / "broken", inputs, **settings)
    doomed = replace(killed, report=KillAt())
    process = multiprocessing.get_context("fork").Process(target=teacher.run, args=(doomed,))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not list(killed.out.iterdir())
    assert teacher.run(killed)["resumed"] == 3
    assert answers_of(killed) == answers_of(whole)
    assert len((killed.work / "answers.jsonl").read_bytes().splitlines()) == 10


def test_without_rows_that_can_be_examples_there_are_none(tmp_path: Path) -> None:
    tools = '[{"type":"function","function":{"name":"track"}}]'
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
    row = {"id": "1", "split": "train", "messages": turns, "tools": tools, "table": "chat", "file": "a.jsonl"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert TeacherPrompt.of(TeacherSettings(), tmp_path).examples == []
    with pytest.raises(UserError, match="few_shot is 4"):
        TeacherPrompt.of(TeacherSettings(few_shot_from="chat/a.jsonl"), tmp_path)
    assert declares_tools(tmp_path)
    pq.write_table(pa.Table.from_pylist([{**row, "tools": None}]), tmp_path / "rows.parquet")
    assert not declares_tools(tmp_path)
