"""`ft run` with several experiments: past a failure, and side by side where there are several GPUs."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from ft_pipeline import scaffold
from ft_pipeline.errors import UserError
from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.run import RunRequest, run
from ft_pipeline.execution.workers.device_leases import device_locks
from ft_pipeline.execution.workers.device_line import device_uses
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, BuildContext
from ft_pipeline.store.locks import FileLock
from ft_pipeline_tests.end_to_end.project import environment, ft, small_project, write_experiment
from ft_pipeline_tests.end_to_end.ui import wait_until
from ft_pipeline_tests.execution.conftest import all_gone

TABLES = "raw_alpaca,alpaca,raw_sharegpt,sharegpt,raw_text,text,conversations"
SELECTED = "raw_text,text,experiment,base_model"
PATIENCE = 120
GPUS = ("GPU-aaaa", "GPU-bbbb")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two good experiments, and one whose base model has no weights."""
    folder = tmp_path_factory.mktemp("several")
    root = small_project(folder / "shop")
    model = root / "models" / "tiny"
    empty = root / "models" / "empty"
    shutil.copytree(model, empty, ignore=shutil.ignore_patterns("*.safetensors"))
    write_experiment(root, "broken", empty)
    write_experiment(root, "lora", model, technique="lora")
    (folder / "nvidia-smi").write_text(
        "#!/bin/sh\n" + "".join(f"echo '{index}, {uuid}, T4, 15360, 15000'\n" for index, uuid in enumerate(GPUS))
    )
    (folder / "nvidia-smi").chmod(0o755)
    return root


def two_gpus(root: Path) -> dict[str, str]:
    """The environment of a machine with two GPUs."""
    return {"PATH": f"{root.parent}:{environment(root)['PATH']}", "FT_LEASE_DIR": str(root.parent / "leases")}


def processes_of_runs(root: Path) -> dict[str, str]:
    """Experiment → the process that executed its newest run."""
    found: dict[str, str] = {}
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        for run in instance.get_runs():
            captured = next(entry.message for entry in instance.all_logs(run.run_id) if "(pid: " in entry.message)
            match = re.search(r"pid: (\d+)", captured)
            assert match
            found.setdefault(run.tags.get("dagster/partition", ""), match[1])
    return found


def test_a_failed_experiment_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = scaffold.create(tmp_path / "shop", example=False, small_example="classification")
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    for path in (root / "experiments").glob("*.yaml"):
        path.unlink()
    for name in ("broken", "lora", "qlora"):
        (root / "experiments" / f"{name}.yaml").write_text("technique: lora\n", encoding="utf-8")
    load_steps()
    good = STEPS["experiment"]

    def build(context: BuildContext) -> dict[str, Any]:
        if context.spec.config["name"] == "broken":
            raise UserError("It is broken. Repair it.")
        assert good.build is not None
        return good.build(context)

    monkeypatch.setitem(STEPS, "experiment", replace(good, build=build))
    result = run(RunRequest(Project(root), select=("raw_alpaca", "experiment")))
    states = {batch.batch.experiment: batch.state for batch in result.batches}
    assert states == {None: "succeeded", "broken": "failed", "lora": "succeeded", "qlora": "succeeded"}
    (failure,) = result.failures
    assert "It is broken. Repair it." in failure and not result.succeeded


@pytest.mark.long
def test_ft_run_goes_on_after_a_failed_experiment(shop: Path) -> None:
    done = ft(shop, "run", "--select", SELECTED)
    assert done.returncode == 1
    rows = [re.sub(r" {2,}", "  ", line.strip(" │┃")) for line in done.stdout.splitlines()]
    assert any(re.match(r"\(shared\)  succeeded  2  ", row) for row in rows), done.stdout
    states = {name: next(row for row in rows if row.startswith(name)) for name in ("broken", "lora", "qlora")}
    assert "failed" in states["broken"] and "· base_model [broken]: " in done.stdout
    assert "succeeded" in states["lora"] and "succeeded" in states["qlora"]
    assert "Traceback" not in done.stdout + done.stderr
    pids = processes_of_runs(shop)
    assert len(set(pids.values())) == 1, "one after the other, in the process of `ft run`"


@pytest.mark.long
def test_experiments_run_side_by_side_where_there_are_several_gpus(shop: Path) -> None:
    done = ft(shop, "run", "--select", "experiment,base_model", "--force", "--json", **two_gpus(shop))
    assert done.returncode == 1
    document = json.loads(done.stdout)
    states = {row["experiment"]: (row["state"], row["ran"]) for row in document["experiments"]}
    assert states == {
        "broken": ("failed", ["experiment", "base_model"]),
        "lora": ("succeeded", ["experiment", "base_model"]),
        "qlora": ("succeeded", ["experiment", "base_model"]),
    }
    assert len(document["failures"]) == 1 and len(document["steps"]) == 6
    assert done.stderr.count("✓") == 5 and done.stderr.count("✗") == 1
    pids = processes_of_runs(shop)
    assert len({pids[name] for name in ("broken", "lora", "qlora")}) == 3


@pytest.fixture
def waiting_run(shop: Path) -> Iterator[psutil.Popen]:
    """`ft run` of two experiments, which wait for GPUs that other jobs have."""
    leases = Path(two_gpus(shop)["FT_LEASE_DIR"])
    command = [str(Path(sys.executable).parent / "ft"), "run", "-e", "lora", "-e", "qlora", "--select"]
    with ExitStack() as stack:
        for uuid in GPUS:
            stack.enter_context(FileLock(leases / uuid, "a job of another project").hold())
        run = psutil.Popen(
            [*command, f"{TABLES},experiment,base_model,prompt_baseline"],
            env=environment(shop) | two_gpus(shop),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a script's `&` does
        )
        stack.callback(run.wait, PATIENCE)
        stack.callback(lambda: run.is_running() and run.kill())
        wait_until(lambda: any(use.waiting for use in device_uses(leases)), "a job waits", PATIENCE)
        yield run


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_and_no_place_in_line_outlives_the_command(
    shop: Path, waiting_run: psutil.Popen, number: signal.Signals
) -> None:
    leases = Path(two_gpus(shop)["FT_LEASE_DIR"])
    children = [child.pid for child in waiting_run.children()]
    assert len(children) == 2
    waiting_run.send_signal(number)
    wait_until(lambda: all_gone(children), "the runs ended", PATIENCE)
    assert all(use.waiting == () for use in device_uses(leases))


@pytest.mark.long
def test_ctrl_c_ends_all_experiments_that_run_one_after_the_other(shop: Path) -> None:
    slot = device_locks(shop / "data" / "store")
    command = [str(Path(sys.executable).parent / "ft"), "run", "-e", "lora", "-e", "qlora", "--select"]
    with FileLock(slot / "cpu", "another job of this store").hold():
        run = subprocess.Popen(
            [*command, f"{TABLES},experiment,base_model,prompt_baseline"],
            env=environment(shop),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: any(use.waiting for use in device_uses(slot)), "a job waits", PATIENCE)
            run.send_signal(signal.SIGINT)
            output, errors = run.communicate(timeout=PATIENCE)
        finally:
            run.kill()
    assert run.returncode == 130 and "ft: stopped." in errors, errors
    assert "Traceback" not in output + errors
    assert "[qlora]" not in errors, "the next experiment is not started"
