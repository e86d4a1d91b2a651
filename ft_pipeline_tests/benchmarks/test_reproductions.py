"""benchmarks/reproductions.py on runs whose optima and differences are known; and killed during real ones."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reproducing.bootstrap import Estimate, interval
from reproducing.estimates import BASE, Estimates, optimum
from reproducing.trainings import (
    ARMS,
    COMPARED,
    FULL,
    QUANTIZED,
    R8,
    R32,
    R85,
    Arm,
    Training,
    called_for,
    lora_parameters,
    mean_loss,
    window,
)
from reproductions import main

from ft_pipeline_tests.benchmarks.conftest import BENCHMARKS

SCRIPT = BENCHMARKS / "reproductions.py"
SEEDS = (42, 43)
ROWS = 80
SETUP = {
    "machine": {"cpu": "a CPU", "compute_dtype": "float32", "torch": "2", "emulated_by": {}},
    "rows": {"train": 150, "held_out": ROWS},
    "tokens": {"train": 15_000, "held_out": 10_000},
    "shared_settings": {},
}
MIDDLE = 1.2 * FULL.rates[2]
OPTIMA = {FULL: MIDDLE, R8: 10 * MIDDLE, R32: 10 * MIDDLE, R85: 10 * MIDDLE}
LOWEST = {FULL: 2.40, R8: 2.45, R32: 2.40, R85: 2.60}
FOUR_BIT = dict(zip(QUANTIZED, (2.41, 2.41, 2.50, 2.50), strict=True))
DIVERGENCE = dict(zip(QUANTIZED, (0.101, 0.10, 0.201, 0.20), strict=True))


def written_runs(
    folder: Path,
    optima: dict[Arm, float] = OPTIMA,
    lowest: dict[Arm, float] = LOWEST,
    noise: float = 0.002,
    diverges: Callable[[Training], bool] = lambda training: False,
) -> Path:
    """A working folder in which every run is finished: losses that are parabolas in log(rate), on rows that differ
    widely in how hard they are, and with noise of `noise` nats per token and row."""
    random = np.random.default_rng(7)
    tokens = random.integers(20, 60, ROWS)
    hard = random.normal(0, 0.6, ROWS)

    def run(key: str, loss: float, scatter: float = noise) -> dict[str, Any]:
        by_row = tokens * (loss + hard + random.normal(0, scatter, ROWS))
        cost = {"technique": "lora", "seconds": 60.0, "jobs": 2, "tokens_per_second": 200.0, "peak_memory_gb": 2.0}
        return {"key": key, "loss_sums": by_row.tolist(), "tokens": tokens.tolist(), "trainable_params": 9, **cost}

    base = run(BASE, 3.2)
    base["kl_sums"] = {
        arm.name: (tokens * (DIVERGENCE[arm] + random.normal(0, 0.001, ROWS))).tolist() for arm in QUANTIZED
    }
    losses: dict[str, float] = {}
    lines = [base]
    while missing := [training for training in called_for((1, 2, 3), SEEDS, losses) if training.key not in losses]:
        for training in missing:
            arm = training.arm
            loss = FOUR_BIT.get(arm, lowest.get(arm, 0.0))
            if arm in optima:
                loss += 0.2 * math.log10(training.rate / optima[arm]) ** 2
            made = run(training.key, loss)
            if diverges(training):
                made = {**made, "diverged": True, "loss_sums": None}
            losses[training.key] = mean_loss(made)
            lines.append(made)
    folder.mkdir()
    (folder / "setup.json").write_text(json.dumps(SETUP), encoding="utf-8")
    (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def reported(folder: Path) -> dict[str, Any]:
    """What the script reports of a working folder."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        command = [str(SCRIPT), "--report-only", "--work", str(folder), "--out", str(folder / "out.json")]
        patch.setattr(sys, "argv", command)
        main()
    report: dict[str, Any] = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return report


def conclusions_of(report: dict[str, Any], study: int) -> list[str]:
    return [result["conclusion"] for result in report["conclusions"] if result["study"] == study]


@pytest.mark.usefixtures("rendered")
def test_true_claims_are_reproduced_with_intervals_and_a_small_picture(tmp_path: Path) -> None:
    folder = written_runs(tmp_path / "work")
    report = reported(folder)
    assert {result["conclusion"] for result in report["conclusions"]} == {"reproduced"} and len(
        report["conclusions"]
    ) == 10
    attention = report["every_matrix_attention_all_weights"]["worse_than_reference_by"][R85.name]
    assert 0.19 < attention["low"] < attention["difference"] < attention["high"] < 0.21
    best = report["learning_rates"][R8.name]["optimum"]
    assert best["low"] < best["high"] and best["value"] == pytest.approx(10 * MIDDLE, rel=0.1)
    two = [row for row in report["configurations"] if row["name"] == R32.name and len(row["seeds"]) == 2]
    assert len(two) >= 3 and all(len(row["loss_by_seed"]) == 2 for row in two)
    picture = (folder / "out.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def test_false_claims_are_not_reproduced(tmp_path: Path) -> None:
    lowest = {**LOWEST, R85: 2.30, FULL: 2.0}
    optima = {**OPTIMA, FULL: FULL.rates[3], R8: R8.rates[1], R32: R32.rates[2]}
    report = reported(written_runs(tmp_path / "work", optima, lowest))
    assert conclusions_of(report, 1) == ["not reproduced"] * 2
    assert conclusions_of(report, 2) == ["not reproduced"] * 3


@pytest.mark.long
def test_noise_or_an_optimum_at_the_edge_is_inconclusive(tmp_path: Path) -> None:
    noisy = reported(written_runs(tmp_path / "noisy", lowest={**LOWEST, R85: 2.42}, noise=0.6))
    assert conclusions_of(noisy, 1)[0] == "cannot tell"
    report = reported(written_runs(tmp_path / "edge", {**OPTIMA, FULL: FULL.rates[0] / 4}))
    of_full = [result for result in report["conclusions"] if "all weights" in result["claim"] and result["study"] == 2]
    assert [result["conclusion"] for result in of_full] == ["cannot tell"] * 2
    assert all(FULL.name in result["remark"] for result in of_full)
    assert report["learning_rates"][FULL.name]["at_the_end_of_the_trained"]


@pytest.mark.long
def test_a_training_that_diverged_counts_as_the_worst_rate(tmp_path: Path) -> None:
    folder = written_runs(tmp_path / "work", diverges=lambda training: training.rate == R8.rates[-1])
    report = reported(folder)
    assert conclusions_of(report, 2) == ["reproduced"] * 3
    last = [row for row in report["configurations"] if row["learning_rate"] == R8.rates[-1]]
    assert last and all(row["loss"] == "diverged" for row in last)


def test_unfinished_runs_are_left_out_of_the_report(tmp_path: Path) -> None:
    folder = written_runs(tmp_path / "work")
    lines = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if FULL.name not in json.loads(line)["key"]]
    torn = '{"key": "all weights, learning rate'
    (folder / "runs.jsonl").write_text("\n".join([*kept, torn]), encoding="utf-8")
    report = reported(folder)
    assert FULL.name not in report["learning_rates"] and not (folder / "out.png").exists()
    assert [len(conclusions_of(report, study)) for study in (1, 2, 3)] == [1, 1, 5]
    assert (folder / "runs.jsonl").read_text(encoding="utf-8") == "\n".join(kept) + "\n"


def test_differences_are_paired_over_rows_and_seeds(tmp_path: Path) -> None:
    """Rows differ by 0.6 nats and seeds by 0.3, equally for both arms: this cancels in their difference."""
    random = np.random.default_rng(3)
    hard = random.normal(0, 0.6, ROWS)
    runs = {}
    for arm, lead in ((R32, 0.0), (R85, 0.05)):
        for seed, shift in zip(SEEDS, (0.0, 0.3), strict=True):
            sums = (2.4 + lead + shift + hard).tolist()
            runs[Training(arm, R32.rates[2], seed).key] = {"loss_sums": sums, "tokens": [1] * ROWS}
    estimates = Estimates(runs, SEEDS, resamples=500)
    every, attention = (estimates.loss(arm, R32.rates[2]) for arm in (R32, R85))
    assert every and attention
    wide = interval(every)
    assert wide.high - wide.low > 0.3
    assert np.allclose(attention.draws - every.draws, 0.05)


def test_the_optimum_is_that_of_the_parabola_and_within_the_rates() -> None:
    rates = (1e-4, 1e-3, 1e-2)

    def optimum_of(*losses: float) -> float:
        return optimum(rates, [Estimate(loss, np.array([loss, loss])) for loss in losses]).value

    assert optimum_of(*((math.log10(rate) + 2.7) ** 2 for rate in rates)) == pytest.approx(10**-2.7)
    assert optimum_of(1.0, 4.0, 9.0) == pytest.approx(1e-4)  # its vertex is at 1e-5
    assert optimum_of(3.0, 2.9, 1.0) == pytest.approx(1e-2)  # bends downwards: no lowest point between the ends


def test_further_seeds_repeat_the_rates_around_the_lowest_loss() -> None:
    first = called_for([2], SEEDS, {})
    assert len(first) == 15 and {training.seed for training in first} == {42}
    middle = R8.rates[2]
    losses = {training.key: abs(math.log(training.rate / middle)) for training in first if training.arm is R8}
    further = [training for training in called_for([2], SEEDS, losses) if training.seed == 43]
    assert [(training.arm, training.rate) for training in further] == [(R8, rate) for rate in R8.rates[1:4]]
    assert list(window([1, 2, 3, 4, 5])) == [0, 1, 2] and list(window([5, 4, 3, 2, math.inf])) == [2, 3, 4]
    assert [training.seed for training in called_for([3], SEEDS, {})] == [42] * 5 + [43] * 5


def test_every_arm_is_an_experiment_and_study_1_compares_equal_sizes(tiny_base: Path) -> None:
    from ft_pipeline.settings.experiment import ExperimentSettings
    from ft_pipeline.training.techniques import count_parameters, new_model

    config = json.loads((tiny_base / "config.json").read_text(encoding="utf-8"))
    for arm in ARMS.values():
        settings = ExperimentSettings.model_validate(arm.settings(arm.rates[0], 42))
        assert settings.training.learning_rate == arm.rates[0]
        if arm in (R32, R85):
            trained = count_parameters(new_model(tiny_base, settings, "cpu"))["trainable_params"]
            assert trained == lora_parameters(arm, config)
    smol = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    every, attention = (lora_parameters(arm, {**smol, "num_hidden_layers": 30}) for arm in (R32, R85))
    assert attention / every == pytest.approx(1, abs=0.01)


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_script_resumes_and_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--study", "3", "--rows", "4", "--held-out", "4", "--seeds", "1"]
    command += ["--jobs", "1", "--work", str(tmp_path)]
    runs = tmp_path / "runs.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not runs.exists() or len(runs.read_text().splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.2)
    time.sleep(1)
    children = _children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = runs.read_text(encoding="utf-8")
    for child in children:
        _wait_for_end(child)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    text = runs.read_text(encoding="utf-8")
    keys = [json.loads(line)["key"] for line in text.splitlines()]
    assert text.startswith(finished) and len(keys) == len(set(keys)) == 1 + len(COMPARED)
    report = json.loads((tmp_path / "reproductions.json").read_text(encoding="utf-8"))
    assert len(conclusions_of(report, 3)) == 5
    refused = subprocess.run([*command, "--rows", "5"], capture_output=True, text=True, check=False)
    assert refused.returncode and "Name another folder with --work" in refused.stderr


def _children(parent: int) -> Sequence[int]:
    output = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    ).stdout
    return [int(line) for line in output.split()]


def _wait_for_end(process: int) -> None:
    for _ in range(100):
        status = Path(f"/proc/{process}/status")
        if not status.exists() or "State:\tZ" in status.read_text(encoding="utf-8"):
            return
        time.sleep(0.1)
    raise AssertionError("a run outlived the process that started it")
