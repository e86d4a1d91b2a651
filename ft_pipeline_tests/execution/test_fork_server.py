"""A forked worker finds around itself what one with an interpreter of its own finds, and no process is left over."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.workers import fork_server
from ft_pipeline.execution.workers.launchers import LocalLauncher, launcher_for
from ft_pipeline.execution.workers.supervisor import WorkerError, run_worker
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.execution.conftest import all_gone, job, wait_until

ENTRY = "ft_pipeline_tests.execution.fake_worker"
FORKED = LocalLauncher(ENTRY, forks=True)
HEAVY = "sqlite3"
"""A module that no worker of the tests imports by itself."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


@pytest.fixture(autouse=True)
def _light_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "IMPORTED", (HEAVY,))


def surroundings(folder: Path, launcher: LocalLauncher = FORKED, *variables: str) -> dict[str, Any]:
    folder.mkdir()
    work = replace(job(folder, "surroundings", look_for=HEAVY), variables=variables)
    found = run_worker(None, work, launcher).summary
    assert (work.folder / "worker.log").read_text().splitlines() == ["said on stdout", "said on stderr"]
    return found


def test_everything_around_a_forked_worker_is_as_around_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surroundings(tmp_path / "first")  # the server starts in another folder
    monkeypatch.chdir(tmp_path)
    forked, alone = surroundings(tmp_path / "forked"), surroundings(tmp_path / "alone", LocalLauncher(ENTRY))
    assert forked.pop("imported") and not alone.pop("imported")
    assert forked.pop("server") == fork_server._servers[0]._process.pid and alone.pop("server") == os.getpid()
    assert forked.pop("environment").keys() == alone.pop("environment").keys()
    assert len(forked.pop("descriptors")) == len(alone.pop("descriptors")), "no descriptor of the server is left open"
    assert forked == alone == {"folder": str(tmp_path), "input": "/dev/null", "session": True}


def test_one_server_forks_all_workers_until_a_variable_changes_that_libraries_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = surroundings(tmp_path / "first")["server"], surroundings(tmp_path / "second")["server"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    third = surroundings(tmp_path / "third")
    assert first == second != third["server"] and third["environment"]["HF_HUB_OFFLINE"] == "0"
    wait_until(lambda: all_gone([first]), "the server that was replaced has ended")


def test_a_variable_of_one_job_reaches_neither_the_server_nor_the_next_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hub")
    named = surroundings(tmp_path / "named", FORKED, "HF_TOKEN")
    assert named["environment"]["HF_TOKEN"] == "hub"
    following = surroundings(tmp_path / "following")
    assert "HF_TOKEN" not in following["environment"] and following["server"] == named["server"]
    assert "HF_TOKEN" not in psutil.Process(named["server"]).environ()


def test_a_killed_server_is_an_error_of_its_worker_and_the_next_worker_gets_another_one(tmp_path: Path) -> None:
    server = surroundings(tmp_path / "before")["server"]
    below: list[psutil.Process] = []

    def kill_server(progress: object) -> None:
        below.extend(psutil.Process(server).children(recursive=True))
        os.kill(server, signal.SIGKILL)

    (tmp_path / "killed").mkdir()
    with pytest.raises(WorkerError, match="the worker was killed by SIGKILL"):
        run_worker(None, job(tmp_path / "killed", "count", steps=1000, sleep=0.05), FORKED, kill_server)
    assert below
    wait_until(lambda: all_gone([process.pid for process in below]), "guard and worker ended")
    assert surroundings(tmp_path / "after")["server"] != server


def test_a_job_without_a_device_is_a_fork_once_a_server_runs(tmp_path: Path) -> None:
    """Its own interpreter costs less than a server, and more than a fork of one."""
    launcher = replace(launcher_for("training_data", None), entry=ENTRY)
    fork_server._close_servers()
    assert not surroundings(tmp_path / "before", launcher)["imported"] and not fork_server._servers
    server = surroundings(tmp_path / "model")["server"]
    assert surroundings(tmp_path / "after", launcher)["server"] == server


def test_one_server_forks_jobs_with_and_without_the_lease_of_a_cpu(store: ArtifactStore) -> None:
    launcher = replace(launcher_for("training_data", None), entry=ENTRY)
    fork_server._close_servers()
    build_artifact(None, store, Spec("surroundings", config={"look_for": HEAVY, "n": 1}), device=True, launcher=FORKED)
    light = build_artifact(None, store, Spec("surroundings", config={"look_for": HEAVY}), launcher=launcher)
    assert light.artifact.summary["imported"]


def test_a_gpu_needs_an_interpreter_of_its_own() -> None:
    assert fork_server.is_possible("cpu") and not fork_server.is_possible("cuda:0")
