"""The local teacher in vLLM: a fake executable, started, queried and stopped as the real one would be."""

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from ft_pipeline.distillation import teacher, vllm_teacher
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.serving_engines import Engine
from ft_pipeline_tests.distillation.material import teacher_job, write_conversations, write_unlabelled
from ft_pipeline_tests.tiny import tiny_model

PROMPTS = [f"Where is order {number}?" for number in range(1, 9)]
SETTINGS = {"system_prompt": "Be short.", "few_shot": 1, "max_new_tokens": 12, "engine": "vllm"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    return {
        "unlabelled": write_unlabelled(root / "unlabelled", [*PROMPTS, "a long one", "and then " * 600]),
        "conversations": write_conversations(root / "conversations"),
        "base_model": tiny_model(root / "base_model"),
    }


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the fake executable on the PATH, and return the file in which it logs its events."""
    script = tmp_path / "bin" / "vllm"
    script.parent.mkdir()
    fake = Path(__file__).with_name("fake_vllm.py")
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    monkeypatch.setenv("FAKE_VLLM_LOG", str(tmp_path / "events.jsonl"))
    return tmp_path / "events.jsonl"


def read(events: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(starts, requests)."""
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "started" in line], [line["request"] for line in lines if "request" in line]


def answers_of(job: Job) -> list[dict[str, Any]]:
    return pq.read_table(job.out / "answers.parquet").to_pylist()


@pytest.mark.long
def test_a_server_answers_every_prompt_and_ends_with_the_run(
    inputs: dict[str, Path], tmp_path: Path, events: Path
) -> None:
    job = teacher_job(tmp_path, inputs, **SETTINGS)
    summary = teacher.run(job)
    rows = answers_of(job)
    assert [row["answer"] for row in rows[:8]] == [f"seen 0: {prompt}" for prompt in PROMPTS]
    assert [row["finish_reason"] for row in rows] == ["stop"] * 8 + ["length", "context"]
    assert (summary["engine"], summary["prompts"], summary["answered"], summary["resumed"]) == ("vllm", 10, 9, 0)
    assert {row[key] for row in rows for key in vllm_teacher.ENDPOINT_COLUMNS} == {None}

    ((start,), requests) = read(events)
    arguments = start["started"]
    assert (arguments["model"], arguments["host"], start["offline"]) == (str(inputs["base_model"]), "127.0.0.1", "1")
    assert not psutil.pid_exists(start["pid"])
    assert len(requests) == 9
    for request in requests:
        assert [turn["role"] for turn in request["messages"]] == ["system", "user", "assistant", "user"]
        assert (request["model"], request["max_tokens"], request["temperature"]) == ("base_model", 12, 0.0)
        assert request["stop_token_ids"]
    assert 12 < int(arguments["max_model_len"]) < 512


@pytest.mark.long
def test_known_answers_are_not_requested_again_and_need_no_server(
    inputs: dict[str, Path], tmp_path: Path, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = teacher_job(tmp_path, inputs, **SETTINGS)
    monkeypatch.setenv("FAKE_VLLM_ENDS_AFTER", "5")
    with pytest.raises(UserError, match=r"vLLM ended with exit code 3; .*CUDA out of memory.* are kept"):
        teacher.run(job)
    monkeypatch.delenv("FAKE_VLLM_ENDS_AFTER")
    before = len(read(events)[1])
    kept = teacher.run(job)["resumed"]
    assert 0 < kept <= 5
    assert len(read(events)[1]) - before == 9 - kept
    assert teacher.run(job)["resumed"] == 9
    assert len(read(events)[0]) == 2
    assert [row["finish_reason"] for row in answers_of(job)] == ["stop"] * 8 + ["length", "context"]


def test_a_server_that_does_not_start_is_reported_with_the_reason(
    inputs: dict[str, Path], tmp_path: Path, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM_ENDS_AFTER", "start")
    with pytest.raises(UserError, match=r"exit code 1; .*the model does not fit.*engine: transformers"):
        teacher.run(teacher_job(tmp_path, inputs, **SETTINGS))


@pytest.mark.long
def test_several_answers_to_a_prompt_have_different_seeds(
    inputs: dict[str, Path], tmp_path: Path, events: Path
) -> None:
    job = teacher_job(tmp_path, inputs, **SETTINGS, temperature=0.8, seed=4, answers_per_prompt=2)
    teacher.run(job)
    assert [row["answer"][:6] for row in answers_of(job)[:4]] == ["seen 4", "seen 5"] * 2
    assert all((request["top_p"], request["top_k"]) == (1.0, -1) for request in read(events)[1])


def test_the_engine_depends_on_setting_device_and_installation(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vllm_teacher.choose_engine("auto", "cpu") is vllm_teacher.choose_engine("transformers", "cuda:0") is None
    assert (
        vllm_teacher.choose_engine("auto", "cuda:0")
        == vllm_teacher.choose_engine("vllm", "cpu")
        == Engine("vllm", events.parent / "bin" / "vllm")
    )
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert vllm_teacher.choose_engine("auto", "cuda:0") is None
    with pytest.raises(UserError, match="`vllm` is not on the PATH"):
        vllm_teacher.choose_engine("vllm", "cuda:0")
