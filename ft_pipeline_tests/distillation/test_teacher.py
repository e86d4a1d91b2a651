"""The local teacher: what it writes, and that a killed run is asked only for what is missing."""

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
def unbroken(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run from start to end."""
    job = teacher_job(tmp_path_factory.mktemp("unbroken"), inputs, **SETTINGS)
    job.out.joinpath("summary.json").write_text(json.dumps(teacher.run(job)))
    return job


def answers_of(job: Job) -> list[dict]:
    return pq.read_table(job.out / "answers.parquet").to_pylist()


def test_every_prompt_is_answered_in_order_with_its_origin(unbroken: Job) -> None:
    rows = answers_of(unbroken)
    assert [plain(row["prompt_messages"]) for row in rows] == [user(text) for text in PROMPTS]
    assert [(row["id"], row["file"], row["row"]) for row in rows] == [(f"u{n}", "inbox.jsonl", n) for n in range(1, 11)]
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert all(0 < row["answer_tokens"] <= 12 < row["prompt_tokens"] for row in rows)
    summary = json.loads((unbroken.out / "summary.json").read_text())
    assert (summary["prompts"], summary["answered"], summary["resumed"]) == (10, 10, 0)
    assert summary["answer_tokens"] == sum(row["answer_tokens"] for row in rows)
    assert isinstance(unbroken.report, Recorder)
    assert unbroken.report.steps == [(4, 10), (8, 10), (10, 10)]


def test_what_was_asked_how_is_written_down(unbroken: Job, inputs: dict[str, Path]) -> None:
    asked = json.loads((unbroken.out / "teacher.json").read_text(encoding="utf-8"))
    assert asked["system_prompt"] == "Be short."
    assert asked["sampling"] == {"temperature": 0.0, "max_new_tokens": 12, "seed": 0}
    assert asked["template_sha256"] == base_model.template_sha256(inputs["base_model"])
    train = [plain(row["messages"]) for row in pq.read_table(inputs["conversations"] / "rows.parquet").to_pylist()]
    assert len(asked["examples"]) == 1
    assert asked["examples"][0] in train


def test_a_resumed_run_asks_only_for_what_is_missing_and_ends_the_same(
    unbroken: Job, inputs: dict[str, Path], tmp_path: Path
) -> None:
    job = teacher_job(tmp_path, inputs, **SETTINGS)
    lines = (unbroken.work / "answers.jsonl").read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:4])
    (job.work / "answers.jsonl").write_bytes(kept + lines[4][:25])
    summary = teacher.run(job)
    assert summary["resumed"] == 4
    assert isinstance(job.report, Recorder)
    assert job.report.steps == [(8, 10), (10, 10)]
    assert answers_of(job) == answers_of(unbroken)
    journal = (job.work / "answers.jsonl").read_bytes()
    assert journal.startswith(kept)
    assert len(journal.splitlines()) == 10


def test_a_finished_journal_needs_no_model(unbroken: Job, inputs: dict[str, Path], tmp_path: Path) -> None:
    job = teacher_job(tmp_path, inputs, **SETTINGS)
    shutil.copy(unbroken.work / "answers.jsonl", job.work)
    assert teacher.run(job)["resumed"] == 10
    assert answers_of(job) == answers_of(unbroken)
    assert isinstance(job.report, Recorder)
    assert job.report.steps == []


def test_a_prompt_that_does_not_fit_the_context_is_not_asked(inputs: dict[str, Path], tmp_path: Path) -> None:
    prompts = ["Where is it?", "and then " * 600]
    unlabelled = write_unlabelled(tmp_path / "unlabelled", prompts)
    job = teacher_job(tmp_path, {**inputs, "unlabelled": unlabelled}, few_shot=0, max_new_tokens=4)
    summary = teacher.run(job)
    assert (summary["prompts"], summary["answered"]) == (2, 1)
    assert [row["finish_reason"] == "context" for row in answers_of(job)] == [False, True]


def test_too_few_examples_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="few_shot is 9"):
        teacher.run(teacher_job(tmp_path, inputs, **{**SETTINGS, "few_shot": 9}))


def test_examples_may_come_from_one_file(inputs: dict[str, Path]) -> None:
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


def test_a_new_file_changes_what_is_asked_unless_the_examples_have_a_file_of_their_own(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """The prompt's hash is part of every question's key: what it changes is asked, and paid for, anew."""
    old = pq.read_table(inputs["conversations"] / "rows.parquet")
    new = [{**row, "id": f"new-{row['id']}", "file": "new.jsonl"} for row in old.to_pylist()]
    pq.write_table(pa.concat_tables([old, pa.Table.from_pylist(new, old.schema)]), tmp_path / "rows.parquet")

    def prompts(settings: TeacherSettings) -> set[str]:
        return {TeacherPrompt.of(settings, folder).prompt_sha256 for folder in (inputs["conversations"], tmp_path)}

    assert len(prompts(TeacherSettings(few_shot=2))) == 2
    assert len(prompts(TeacherSettings(few_shot=2, few_shot_from="alpaca/support.jsonl"))) == 1


def test_sampling_is_seeded(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        job = teacher_job(tmp_path / name, inputs, **{**SETTINGS, "temperature": 1.0, "seed": seed, "few_shot": 0})
        teacher.run(job)
        found[name] = [row["answer"] for row in answers_of(job)]
    assert found["a"] == found["b"] != found["c"]


def test_several_answers_per_prompt(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Each sample has its own seed; a resumed run asks for the missing ones only."""
    settings = {**SETTINGS, "temperature": 1.0, "answers_per_prompt": 3, "few_shot": 0, "batch_size": 16}
    job = teacher_job(tmp_path / "a", inputs, **settings)
    assert teacher.run(job)["wanted"] == 30
    rows = answers_of(job)
    assert [(row["id"], row["sample"]) for row in rows] == [(f"u{n}", s) for n in range(1, 11) for s in range(3)]
    assert any(len({row["answer"] for row in rows[at : at + 3]}) == 3 for at in range(0, 30, 3))
    again = teacher_job(tmp_path / "b", inputs, **settings)
    lines = (job.work / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (again.work / "answers.jsonl").write_bytes(b"".join(lines[:20]))
    assert teacher.run(again)["resumed"] == 20
    assert answers_of(again) == rows


def test_an_endpoint_without_its_key_is_not_asked(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    endpoint = {"url": "http://127.0.0.1:9/v1", "api_key_env": "TEACHER_KEY"}
    job = teacher_job(tmp_path, inputs, model="big", few_shot=1, endpoint=endpoint)
    with pytest.raises(UserError, match="The environment variable TEACHER_KEY"):
        teacher.run(job)


class KillAt(Recorder):
    """Kills its own process, as a machine would, once `step` answers are reported."""

    def progress(self, step: int, total: int, **values: float) -> None:
        if step >= 3:
            os.kill(os.getpid(), signal.SIGKILL)


def test_kill_and_run_again(inputs: dict[str, Path], tmp_path: Path) -> None:
    settings = {**SETTINGS, "batch_size": 1}
    whole = teacher_job(tmp_path / "whole", inputs, **settings)
    teacher.run(whole)
    broken = teacher_job(tmp_path / "broken", inputs, **settings)
    doomed = replace(broken, report=KillAt())
    process = multiprocessing.get_context("spawn").Process(target=teacher.run, args=(doomed,))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not list(broken.out.iterdir())
    assert teacher.run(broken)["resumed"] == 3
    assert answers_of(broken) == answers_of(whole)
    assert len((broken.work / "answers.jsonl").read_bytes().splitlines()) == 10
