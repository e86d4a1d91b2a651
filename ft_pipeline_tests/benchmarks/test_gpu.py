"""benchmarks/gpu.py: parts that go on where they stopped, measurements in processes, and the report."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from gpu_parts import bench as bench_module
from gpu_parts import report
from gpu_parts.bench import Bench, Findings, OutOfTime, Skipped
from gpu_parts.losses import TOLERANCES, compare_losses, hold
from gpu_parts.runner import PART_MINUTES, Part, Results, Runner, write_whole

from ft_pipeline_tests.benchmarks.conftest import BENCHMARKS
from ft_pipeline_tests.forked_process import ForkedProcess

SETUP = {"device": "cpu", "scale": "full"}


def part(name: str, measure: Callable[[Bench], Findings], minutes: float = 0, needs: str | None = None) -> Part:
    return Part(name, f"What of {name}?", minutes, measure, needs)


def runner(folder: Path, *parts: Part) -> Runner:
    results = Results(folder)
    results.agree(SETUP)
    return Runner(results, parts, "cpu", "full")


def run(runner_: Runner, minutes: float = PART_MINUTES + 1) -> None:
    runner_.run([each.name for each in runner_.parts], minutes)


def statuses(runner_: Runner) -> dict[str, str | None]:
    return {each.name: (runner_.results.of(each.name) or {}).get("status") for each in runner_.parts}


class Measured:
    """A part's function that counts its calls."""

    def __init__(self, outcome: Exception | None = None, value: float = 0.0) -> None:
        self.calls = 0
        self.outcome = outcome
        self.value = value

    def __call__(self, bench: Bench) -> Findings:
        self.calls += 1
        if self.outcome:
            raise self.outcome
        findings = Findings()
        findings.check("difference", self.value, 0.5)
        findings.row("numbers", model="small", value=self.value)
        return findings


# --- parts ------------------------------------------------------------------------------------------------------------


def test_each_part_runs_once_and_a_failure_does_not_stop_the_others(tmp_path, capsys):
    functions = {
        "fine": Measured(),
        "wrong": Measured(value=0.7),
        "broken": Measured(ValueError("no such kernel")),
        "absent": Measured(Skipped("vLLM is not installed")),
        "last": Measured(),
    }
    parts = [part(name, function) for name, function in functions.items()]
    run(runner(tmp_path, *parts))
    expected = {"fine": "passed", "wrong": "failed", "broken": "error", "absent": "skipped", "last": "passed"}
    assert statuses(runner(tmp_path, *parts)) == expected
    shown = capsys.readouterr().out
    assert "FAILED difference: 0.7 (at most 0.5)" in shown and "ValueError: no such kernel" in shown
    assert "All parts have a result." in shown
    run(runner(tmp_path, *parts))
    assert {function.calls for function in functions.values()} == {1}
    again = runner(tmp_path, *parts)
    again.results.forget("wrong")
    functions["wrong"].value = 0.1
    again.run(["wrong"], 8)
    assert again.results.of("wrong")["status"] == "passed"
    assert [function.calls for function in functions.values()] == [1, 2, 1, 1, 1]


def test_a_part_that_the_end_of_a_call_stops_is_run_by_the_next_one(tmp_path, capsys):
    stopped, later = Measured(OutOfTime()), Measured()
    both = runner(tmp_path, part("stopped", stopped), part("later", later, minutes=5))
    run(both, minutes=1)
    assert statuses(both) == {"stopped": None, "later": None} and later.calls == 0
    assert "too few for later (about 5 min)" in capsys.readouterr().out
    stopped.outcome = None
    run(both, minutes=20)
    assert statuses(both) == {"stopped": "passed", "later": "passed"}


def test_a_part_that_is_not_done_in_all_its_minutes_is_recorded(tmp_path):
    slow = runner(tmp_path, part("slow", Measured(OutOfTime())), part("next", Measured()))
    run(slow)
    assert statuses(slow) == {"slow": "error", "next": "passed"}
    assert "--again slow" in slow.results.of("slow")["error"]


def test_a_part_waits_for_the_one_that_it_needs(tmp_path, capsys):
    models, forward = Measured(ValueError("the disk is full")), Measured()
    both = runner(tmp_path, part("models", models), part("forward", forward, needs="models"))
    run(both)
    assert statuses(both) == {"models": "error", "forward": None}
    assert "forward needs `models`" in capsys.readouterr().out
    models.outcome = None
    both.results.forget("models")
    run(both)
    assert statuses(both) == {"models": "passed", "forward": "passed"}


def test_results_of_another_device_are_not_mixed(tmp_path):
    runner(tmp_path)
    with pytest.raises(SystemExit, match="Name another folder with --out"):
        Results(tmp_path).agree({**SETUP, "device": "cuda"})
    write_whole(tmp_path / "parts" / "whole.json", {"status": "passed"})
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["whole.json"]


# --- measurements -----------------------------------------------------------------------------------------------------

FAKE = """
import os, signal, subprocess, sys, time
from gpu_parts.bench import Skipped

def run(item):
    if item == "raise":
        raise RuntimeError("CUDA error: an illegal memory access")
    if item == "skip":
        raise Skipped("no second GPU")
    if item == "die":
        print("killed by the test", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "server":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(600)
    return {"item": item, "process": os.getpid(), "visible": os.environ["CUDA_VISIBLE_DEVICES"]}
"""
SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{benchmarks!r}, {folder!r}]
from gpu_parts import tasks
tasks.TASKS = {{"fake": "fake_measurement:run"}}
tasks.main(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "fake_measurement.py").write_text(FAKE)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(benchmarks=str(BENCHMARKS), folder=str(tmp_path)))
    monkeypatch.setattr(bench_module, "SCRIPT", script)
    return Bench(tmp_path / "out", "part", "cpu", "tiny", time.monotonic() + 60)


def test_a_measurement_that_fails_or_dies_ends_no_other(bench):
    outcomes = bench.run_each("fake", ["a", "raise", "b", "die", "skip", "c"])
    assert [outcome.get("result", {}).get("item") for outcome in outcomes] == ["a", None, "b", None, None, "c"]
    assert outcomes[1]["error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert "ended with -9" in outcomes[3]["error"] and "killed by the test" in outcomes[3]["error"]
    assert outcomes[4]["skipped"] == "no second GPU"
    processes = [outcome["result"]["process"] for outcome in outcomes if "result" in outcome]
    assert len(set(processes)) == 3  # a new one after each error
    assert {outcome["result"]["visible"] for outcome in outcomes if "result" in outcome} == {""}


def test_measurements_that_are_alone_share_no_process_and_equal_errors_are_not_repeated(bench):
    outcomes = bench.run_each("fake", ["a", "b"], alone=True)
    assert len({outcome["result"]["process"] for outcome in outcomes}) == 2
    before = len(list((bench.out / "logs").glob("*.log")))
    failed = bench.run_each("fake", ["raise"] * 6)
    errors = [outcome["error"] for outcome in failed]
    assert len(set(errors[:3])) == 1 and errors[3:] == [f"not tried after {errors[0]}"] * 3
    assert len(list((bench.out / "logs").glob("*.log"))) == before + 3


@pytest.mark.long
def test_the_end_of_the_time_ends_a_measurement_and_the_server_that_it_started(bench):
    short = Bench(bench.out, "part", "cpu", "tiny", time.monotonic() + 3)
    with pytest.raises(OutOfTime):
        short.run("fake", "server")
    (log,) = (bench.out / "logs").glob("*.log")
    server = int(log.read_text().split()[0])
    psutil.wait_procs([psutil.Process(server)] if psutil.pid_exists(server) else [], timeout=5)
    assert not psutil.pid_exists(server) or psutil.Process(server).status() == psutil.STATUS_ZOMBIE


@pytest.mark.long
def test_what_was_measured_in_all_the_minutes_of_a_part_is_kept(bench):
    last = Bench(bench.out, "part", "cpu", "tiny", time.monotonic() + 4, has_all_minutes=True)
    first, *rest = last.run_each("fake", ["a", "server", "b"])
    assert first["result"]["item"] == "a"
    assert rest == [{"error": "no time was left"}] * 2


# --- comparison -------------------------------------------------------------------------------------------------------

RIGHT = {"loss": [8.0, 7.5, 7.0], "eval_loss": [7.3, 7.2], "grad_norm": [2.0, 1.9, 1.8]}


@pytest.mark.parametrize(
    ("wrong", "failed"),
    [
        ({}, set()),
        ({"loss": [8.0, 7.5, 7.02]}, {"losses"}),
        ({"loss": [8.01, 7.5, 7.0]}, {"first loss"}),
        ({"loss": [8.0, 7.5]}, {"losses"}),
        ({"eval_loss": [7.3, float("nan")]}, {"held-out losses", "learned"}),
        ({"eval_loss": [7.3, 7.206]}, {"learned"}),
        ({"grad_norm": [2.1, 1.9, 1.8]}, {"first gradient"}),
    ],
)
def test_a_loss_that_differs_is_found(wrong, failed):
    findings = Findings()
    hold(findings, "lora", compare_losses(RIGHT, {**RIGHT, **wrong}), TOLERANCES["float32"])
    assert {check["name"].removeprefix("lora: ") for check in findings.checks if not check["passed"]} == failed
    assert findings.status == ("failed" if failed else "passed")


# --- report -----------------------------------------------------------------------------------------------------------


def test_the_report_shows_failures_numbers_and_pictures(tmp_path):
    def speed(bench: Bench) -> Findings:
        findings = Findings()
        for contender, rate in (("ours", 90_000.0), ("TRL like for like", 60_000.0)):
            findings.row("speed", technique="lora", contender=contender, tokens_per_second=rate, peak_memory_gb=9.5)
        findings.skipped["Unsloth"] = "unsloth is not installed"
        return findings

    parts = [
        part("forward", Measured(value=0.75)),
        part("speed-lora", speed),
        part("vllm", Measured(ValueError("a | b\nc"))),
        part("memory", Measured()),
    ]
    unfinished = runner(tmp_path, *parts)
    unfinished.run(["forward", "speed-lora", "vllm"], 9)
    line = report.write(unfinished.results, parts)
    text = (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    assert "1 parts passed, 1 failed, 1 error, 0 skipped, 1 not run" in line
    assert "Nothing here ran on a GPU." in text
    assert "- forward: difference: 0.75 (at most 0.5)" in text
    assert "| lora | ours | 90,000 | 9.5 |" in text and "Skipped Unsloth: unsloth is not installed" in text
    assert "| [memory](#memory) | What of memory? | not run | - | - |" in text and "ValueError: a \\| b c" in text
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG") and "![speed.png](speed.png)" in text
    assert not (tmp_path / "memory.png").exists()


def test_the_command_lists_its_parts_and_refuses_a_machine_without_a_gpu(tmp_path, monkeypatch):
    def command(*arguments: str) -> tuple[int, str, str]:
        process = ForkedProcess("benchmarks.gpu", *arguments, "--out", str(tmp_path), CUDA_VISIBLE_DEVICES="")
        output, errors = process.communicate()
        return process.wait(), output, errors

    monkeypatch.chdir(BENCHMARKS.parent)
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))
    listed = command("list")[1].splitlines()
    assert listed[0].startswith("models") and any(line.startswith("losses-grpo") for line in listed)
    code, _, errors = command("run")
    assert code and "nvidia-smi shows no GPU here. Use --device cpu --scale tiny" in errors
    code, _, errors = command("run", "--device", "cpu", "--part", "mergee")
    assert code and "There is no part 'mergee'" in errors
