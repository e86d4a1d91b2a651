"""What every launcher promises: the worker gets its job, and what it says and how it ends arrives here.

Clusters are started for the long tests only (clusters/test_ray.py, test_slurm.py, end_to_end). Here, there is none.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ft_pipeline import scaffold
from ft_pipeline.clusters.cluster_node import ORDER_FILE
from ft_pipeline.clusters.launchers import RayLauncher, SlurmLauncher
from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers import fork_server
from ft_pipeline.execution.workers.device_leases import DeviceNeed
from ft_pipeline.execution.workers.launchers import (
    HERE as ON_THIS_MACHINE,
)
from ft_pipeline.execution.workers.launchers import (
    AccelerateLauncher,
    Launcher,
    LocalLauncher,
    launcher_for,
)
from ft_pipeline.execution.workers.supervisor import WorkerError, run_worker
from ft_pipeline.features import names_in
from ft_pipeline.step import STEPS
from ft_pipeline_tests.clusters.test_kubernetes import pod_of
from ft_pipeline_tests.execution.cancelling import Cancelled, cancel_at
from ft_pipeline_tests.execution.conftest import ROOT, job

ENTRY = "ft_pipeline_tests.execution.fake_worker"
MATERIAL: dict[str, Launcher] = {
    "local": LocalLauncher(ENTRY),
    "accelerate": AccelerateLauncher(ENTRY),
    "ray": RayLauncher(entry=ENTRY),
    "slurm": SlurmLauncher(entry=ENTRY),
}
FORKED = LocalLauncher(ENTRY, forks=True)
HERE = [*(launcher for launcher in MATERIAL.values() if launcher.lease is None), FORKED]
"""Those whose workers run on this machine."""
ELSEWHERE = [name for name, launcher in MATERIAL.items() if launcher not in HERE]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("FT_LEASE_DIR", str(tmp_path / "leases"))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    for name in ("FT_LAUNCHER", "FT_NUM_PROCESSES", "FT_ACCELERATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def folder_of(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_every_launcher_has_material() -> None:
    assert set(MATERIAL) == {*ON_THIS_MACHINE, *names_in("launcher")}, (
        "add it with ENTRY to MATERIAL in contracts/test_launchers.py"
    )


@pytest.mark.parametrize("name", MATERIAL)
def test_the_deployment_chooses_it_and_light_jobs_stay_here(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_LAUNCHER", name)
    assert type(launcher_for("adapter", DeviceNeed())) is type(MATERIAL[name])
    assert launcher_for("teacher_answers", None) == LocalLauncher(forks=None)


@pytest.fixture(autouse=True)
def _light_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "IMPORTED", ())


def processes() -> list[psutil.Process]:
    """The processes that this one started and that still run, but for those that fork others and stay until it ends."""
    started = psutil.Process().children(recursive=True)
    lasting = ("multiprocessing", "fork_server")
    return [process for process in started if not any(name in " ".join(process.cmdline()) for name in lasting)]


@pytest.mark.parametrize("launcher", HERE)
def test_a_stopped_worker_goes_on_where_it_was(launcher: Launcher, tmp_path: Path) -> None:
    work = job(tmp_path, "count", steps=10_000, sleep=0.05)
    with pytest.raises(Cancelled):
        run_worker(None, work, launcher, cancel_at(2))
    done = int((work.work / "done").read_text())
    assert 2 <= done < 10_000 and list(work.out.iterdir()) == []
    steps: list[int] = []
    short = replace(work, config={"steps": done + 2})
    summary = run_worker(None, short, launcher, lambda progress: steps.append(progress.step)).summary
    assert summary == {"steps": done + 2, "resumed_from": done, "device": "cpu"}
    assert steps[-1] == done + 2 and steps == sorted(steps)
    assert not processes()


@pytest.mark.parametrize("launcher", HERE)
def test_an_error_of_the_user_is_its_sentence_and_any_other_has_its_traceback(
    launcher: Launcher, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^learning_rate is 7: choose one under 1$"):
        run_worker(None, job(folder_of(tmp_path, "refused"), "refuse"), launcher)
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        run_worker(None, job(folder_of(tmp_path, "crashed"), "crash"), launcher)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_without_its_cluster_one_sentence_says_so_and_no_process_is_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine with SLURM's commands has a cluster, perhaps
    work = job(tmp_path, "count", steps=1)
    with pytest.raises((UserError, WorkerError), match=rf"(?i){name}") as refused:
        run_worker(None, work, MATERIAL[name])
    assert "Traceback" not in str(refused.value)
    order = json.loads((work.folder / ORDER_FILE).read_text(encoding="utf-8"))
    assert order["entry"] == ENTRY and order["env"]["FT_COMPUTE_DTYPE"] == "float32" and order["gpus"] == 0
    assert list(work.out.iterdir()) == [] and not processes()


def test_the_pod_of_every_step_is_one_that_kubernetes_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in holds each against the published schema."""
    pytest.importorskip("dagster_k8s")
    root = scaffold.create(tmp_path / "shop", example=True)
    monkeypatch.setenv("FT_PROJECT", str(root))
    settings: dict[str, Any] = {"technique": "lora", "gpu": {"count": 1}}
    (root / "experiments" / "mine.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for name, step in STEPS.items():
        pod = pod_of(name, "mine" if step.per_experiment else None)
        assert pod["containers"][0]["args"][:3] == ["dagster", "api", "execute_step"], name
