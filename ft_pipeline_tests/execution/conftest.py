import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.execution.workers.supervisor import WorkerJob
from ft_pipeline.store.artifacts import ArtifactStore

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds that a test waits at most; a test that passes never waits this long."""


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Worker processes import their jobs from this folder, and each test has its own device locks."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("FT_LEASE_DIR", str(tmp_path / "leases"))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def launcher() -> LocalLauncher:
    return LocalLauncher("ft_pipeline_tests.execution.fake_worker")


def job(folder: Path, kind: str, **config: object) -> WorkerJob:
    """A job of fake_jobs.py, with its folders below `folder`."""
    for name in ("folder", "out", "work"):
        (folder / name).mkdir()
    return WorkerJob(kind, kind, config, {}, folder / "folder", folder / "out", folder / "work")


def wait_until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience:.0f} s: {what}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


def family_pids(store: ArtifactStore, patience: float = PATIENCE) -> list[int]:
    """The pids that a `family` job wrote: worker, guard, children."""
    pid_files: list[Path] = []

    def written() -> bool:
        pid_files[:] = (store.root / "work").rglob("pids")
        return bool(pid_files)

    wait_until(written, "the job started its children", patience)
    return [int(pid) for pid in pid_files[0].read_text().split()]
