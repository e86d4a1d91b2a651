"""Whatever is killed, nothing stays behind: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.execution.workers.supervisor import WorkerError, run_worker
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.execution.cancelling import Cancelled, cancel
from ft_pipeline_tests.execution.conftest import PATIENCE, alive, all_gone, family_of, job, until
from ft_pipeline_tests.execution.fake_worker import NO_PRCTL

SHORT = ((signal.SIGINT, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))


def build(store: ArtifactStore, kind: str, **config: object) -> subprocess.Popen[str]:
    """A builder in a process of its own."""
    command = [sys.executable, "-m", "ft_pipeline_tests.execution.subject", str(store.root), kind, json.dumps(config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_ends_the_worker_and_all_its_children_and_keeps_the_checkpoint(store: ArtifactStore) -> None:
    builder = build(store, "family")
    pids = family_of(store)
    assert len(pids) == 4 and all(map(alive, pids))
    builder.send_signal(signal.SIGINT)
    _, errors = builder.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in errors
    until(lambda: all_gone(pids), "the worker and its children ended")
    assert [path.read_text() for path in (store.root / "work").rglob("checkpoint")] == ["kept"]
    assert store.all() == []
    assert list((store.root / "drafts").iterdir()) == []


def test_a_machine_that_shuts_down_keeps_the_checkpoint(store: ArtifactStore) -> None:
    """A service manager sends SIGTERM to every process at once."""
    builder = build(store, "family")
    pids = family_of(store)
    for pid in pids[:2]:
        os.kill(pid, signal.SIGTERM)
    _, errors = builder.communicate(timeout=PATIENCE)
    assert "the worker was interrupted. Run again" in errors
    until(lambda: all_gone(pids), "the worker and its children ended")
    assert [path.read_text() for path in (store.root / "work").rglob("checkpoint")] == ["kept"]


@pytest.mark.parametrize("victim", ["supervisor", "guard", "worker"])
def test_killing_any_one_process_leaves_none(store: ArtifactStore, victim: str) -> None:
    builder = build(store, "family", stubborn=True)
    pids = family_of(store)
    worker, guard = pids[:2]
    os.kill({"supervisor": builder.pid, "guard": guard, "worker": worker}[victim], signal.SIGKILL)
    _, errors = builder.communicate(timeout=PATIENCE)
    # Nobody is left to look for a child in a session of its own once the guard is gone: that is the one gap.
    looked_after = pids[:3] if victim == "guard" else pids
    until(lambda: all_gone(looked_after), "the worker and its children ended")
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    if victim != "supervisor":
        assert "the worker was killed by SIGKILL" in errors
    assert store.all() == []


@pytest.mark.parametrize("victim", ["guard", "worker"])
def test_what_linux_alone_does_for_orphans_is_not_needed(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """On macOS nothing ends with its parent. Only a child in a session of its own may outlive a killed worker."""
    monkeypatch.setenv(NO_PRCTL, "1")
    builder = build(store, "family", stubborn=True)
    pids = family_of(store)
    os.kill(dict(zip(("worker", "guard"), pids, strict=False))[victim], signal.SIGKILL)
    builder.communicate(timeout=PATIENCE)
    until(lambda: all_gone(pids[:3]), "the worker and its group ended")
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_worker_that_ignores_every_request_is_killed(launcher: LocalLauncher, tmp_path: Path) -> None:
    given = job(tmp_path, "family", stubborn=True)
    with pytest.raises(Cancelled):
        run_worker(None, given, launcher, on_progress=cancel, graces=SHORT)
    pids = [int(pid) for pid in (given.work / "pids").read_text().split()]
    until(lambda: all_gone(pids), "the worker and its children ended")


def test_children_do_not_outlive_a_job_that_ends_well(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = run_worker(None, job(tmp_path, "family", ends=True), launcher)
    assert all_gone(result.summary["pids"])


def test_threads_that_outlive_the_job_do_not_abort_it(launcher: LocalLauncher, tmp_path: Path) -> None:
    """They would, while Python is taken apart: seen with gloo's after a training by two processes had ended well."""
    assert run_worker(None, job(tmp_path, "threads"), launcher).summary == {"groups": 2}


def test_two_builders_at_once_build_once(store: ArtifactStore) -> None:
    builders = [build(store, "count", steps=8, sleep=0.2) for _ in range(2)]
    told = [json.loads(builder.communicate(timeout=PATIENCE)[0]) for builder in builders]
    assert sorted(each["reused"] for each in told) == [False, True]
    assert told[0]["path"] == told[1]["path"]
    assert len(store.all()) == 1


def test_the_next_builder_goes_on_after_a_killed_one(store: ArtifactStore) -> None:
    first = build(store, "count", steps=40, sleep=0.1)
    until(lambda: any((store.root / "work").rglob("done")), "the first builder is under way")
    first.kill()
    first.communicate()
    second = build(store, "count", steps=40, sleep=0.1)
    told = json.loads(second.communicate(timeout=PATIENCE)[0])
    manifest = json.loads((Path(told["path"]) / "manifest.json").read_bytes())
    assert manifest["summary"]["resumed_from"] >= 1
    assert list((store.root / "drafts").iterdir()) == []


def test_a_worker_that_cannot_start_is_an_error(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"No module named ft_pipeline_tests\.nothing"):
        run_worker(None, job(tmp_path, "count"), LocalLauncher("ft_pipeline_tests.nothing"))
