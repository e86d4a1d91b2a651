"""benchmarks/gpu.py with tiny models on the CPU: every part really runs, and a wrong model does not pass."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import peft  # noqa: F401 -- for the forks
import pytest
import torch  # noqa: F401
import transformers  # noqa: F401
import trl  # noqa: F401
from gpu_parts.bench import Bench, Findings
from gpu_parts.losses import VARIANTS, Comparison
from gpu_parts.registry import all_parts
from gpu_parts.runner import Results, Runner

from ft_pipeline_tests.benchmarks.conftest import BENCHMARKS
from ft_pipeline_tests.forked_process import ForkedProcess

ROOT = BENCHMARKS.parent
pytestmark = [pytest.mark.long, pytest.mark.story]
NEEDS_GPU = {"use_liger_kernel", "flash_attention_2", "flash_attention_3", "flex_attention"}


def command(folder: Path, *arguments: str, **environment: str) -> str:
    line = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--out", str(folder)]
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the part `models` has run."""
    folder = tmp_path_factory.mktemp("gpu")
    command(folder, "run", "--device", "cpu", "--scale", "tiny", "--part", "models")
    assert result(folder, "models")["status"] == "passed"
    return folder


@pytest.fixture(scope="module")
def bench(made: Path) -> Bench:
    return Bench(made, "a-test", "cpu", "tiny", time.monotonic() + 3600)


def result(folder: Path, part: str) -> dict[str, Any]:
    return json.loads((folder / "parts" / f"{part}.json").read_text(encoding="utf-8"))


def failed(result_: dict[str, Any]) -> list[dict[str, Any]]:
    return [check for check in result_.get("checks", []) if not check["passed"]]


def forked_task(bench: Bench, command: list[str], log: Any, gpus: int) -> int:
    """Bench._wait with a fork of this process, which need not import torch; `made` has the processes of a user."""
    process = ForkedProcess("benchmarks.gpu", *command[2:], **bench._environment(gpus))
    try:
        return process.wait(bench.deadline - time.monotonic())
    finally:
        process.kill()
        log.write("".join(process.communicate()).encode())


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named vllm that answers something else than the model."""
    fake = ROOT / "ft_pipeline_tests" / "distillation" / "fake_vllm.py"
    script = tmp_path / "bin" / "vllm"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    monkeypatch.setenv("FAKE_VLLM_LOG", str(tmp_path / "events.jsonl"))


def test_every_part_runs_on_a_cpu_and_only_a_wrong_engine_fails(
    made: Path, fake_vllm: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bench, "_wait", forked_task)
    Runner(Results(made), all_parts(), "cpu", "tiny").run([part.name for part in all_parts()], minutes=90)
    assert "All parts have a result." in capsys.readouterr().out
    found = {part.name: result(made, part.name) for part in all_parts()}
    wrong = {name: failed(each) or each.get("error") for name, each in found.items() if each["status"] != "passed"}
    assert set(wrong) == {"vllm"}, wrong
    assert {check["name"].partition(": ")[2] for check in wrong["vllm"]} == {"answers that begin as ours"}
    assert len(wrong["vllm"]) == 2 and {check["value"] for check in wrong["vllm"]} == {0.0}

    assert {name for name in found["fast-paths"]["skipped"] if name in NEEDS_GPU} == NEEDS_GPU
    assert {row["contender"] for row in found["speed-lora"]["tables"]["speed"]} >= {
        "ours",
        "TRL like for like",
        "TRL's defaults",
    }
    contenders = {row["contender"] for row in found["speed-dpo-grpo"]["tables"]["speed"]}
    assert contenders >= {"ours, dpo", "TRL, dpo", "ours, grpo", "TRL, grpo"}
    trainings = {row["training"] for row in found["losses-sft"]["tables"]["losses against the CPU"]}
    assert trainings >= {f"{name}, float32" for name in VARIANTS}
    assert len(found["two-gpus"]["tables"]["two processes"]) == 5

    print(command(made, "report"))
    text = (made / "REPORT.md").read_text(encoding="utf-8")
    assert "Nothing here ran on a GPU." in text and "vLLM as a server: answers that begin as ours" in text
    assert all(f"## {part.name}" in text for part in all_parts())
    assert (made / "speed.png").is_file() and (made / "memory.png").is_file()


def test_a_wrong_model_on_the_device_fails_the_losses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of the parts above, but the device trains a model with one matrix that is 5 % too large."""
    right = Comparison.item
    calls: list[str] = []

    def item(self: Comparison, name: str, device: str, dtype: str, variant: dict[str, Any]) -> dict[str, Any]:
        calls.append(name)
        made = right(self, name, device, dtype, variant)
        # The CPU trains each technique first.
        return made if calls.count(name) == 1 else {**made, "base": bench.model("small_wrong")}

    monkeypatch.setattr(Comparison, "item", item)
    base, data, findings = bench.model("small"), bench.folder("material"), Findings()
    bench.run("material", {"objective": "cpt", "base": base, "folder": data})
    techniques = ("lora", "full")
    Comparison(bench, findings, "cpt", base, f"{data}/data").run({name: VARIANTS[name] for name in techniques})
    failed_checks = {check["name"] for check in findings.checks if not check["passed"]}
    assert findings.status == "failed"
    assert {f"{name}, float32: first gradient" for name in techniques} <= failed_checks
