"""Whichever process is killed, none is left over: real processes, real signals."""

import json
import os
import signal
from pathlib import Path

import pytest

from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.execution.workers.supervisor import WorkerError, run_worker
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.execution.cancelling import Cancelled, cancel
from ft_pipeline_tests.execution.conftest import PATIENCE, alive, all_gone, family_pids, job, wait_until
from ft_pipeline_tests.execution.fake_worker import NO_PRCTL
from ft_pipeline_tests.forked_process import ForkedProcess

SHORT = ((signal.SIGINT, 0.3), (signal.SIGTERM, 0.3), (signal.SIGKILL, 5.0))


def build(store: ArtifactStore, kind: str, launcher: str = "local", **config: object) -> ForkedProcess:
    """A builder in a separate process."""
    return ForkedProcess("ft_pipeline_tests.execution.subject", str(store.root), kind, json.dumps(config), launcher)


@pytest.mark.parametrize("launcher", [pytest.param("local", marks=pytest.mark.long), "forked"])
def test_ctrl_c_ends_the_worker_and_its_children_and_keeps_the_checkpoint(store: ArtifactStore, launcher: str) -> None:
    builder = build(store, "family", launcher)
    pids = family_pids(store)
    assert len(pids) == 4 and all(map(alive, pids))
    builder.send_signal(signal.SIGINT)
    _, errors = builder.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in errors
    wait_until(lambda: all_gone(pids), "the worker and its children ended")
    assert [path.read_text() for path in (store.root / "work").rglob("checkpoint")] == ["kept"]
    assert store.all() == []
    assert list((store.root / "drafts").iterdir()) == []


@pytest.mark.long
def test_a_shutdown_of_the_machine_keeps_the_checkpoint(store: ArtifactStore) -> None:
    """A service manager sends SIGTERM to every process at once."""
    builder = build(store, "family")
    pids = family_pids(store)
    for pid in pids[:2]:
        os.kill(pid, signal.SIGTERM)
    _, errors = builder.communicate(timeout=PATIENCE)
    assert "the worker was interrupted. Run again" in errors
    wait_until(lambda: all_gone(pids), "the worker and its children ended")
    assert [path.read_text() for path in (store.root / "work").rglob("checkpoint")] == ["kept"]


@pytest.mark.parametrize(
    ("victim", "launcher"),
    [
        ("supervisor", "forked"),
        ("worker", "local"),
        *(
            pytest.param(victim, launcher, marks=pytest.mark.long)
            for victim, launcher in (
                ("supervisor", "local"),
                ("worker", "forked"),
                ("guard", "local"),
                ("guard", "forked"),
            )
        ),
    ],
)
def test_killing_any_process_ends_the_others(store: ArtifactStore, victim: str, launcher: str) -> None:
    builder = build(store, "family", launcher, stubborn=True)
    pids = family_pids(store)
    worker, guard = pids[:2]
    os.kill({"supervisor": builder.pid, "guard": guard, "worker": worker}[victim], signal.SIGKILL)
    _, errors = builder.communicate(timeout=PATIENCE)
    # Once the guard is gone, no process looks for a child in a separate session: the one known gap.
    looked_after = pids[:3] if victim == "guard" else pids
    wait_until(lambda: all_gone(looked_after), "the worker and its children ended")
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    if victim != "supervisor":
        assert "the worker was killed by SIGKILL" in errors
    assert store.all() == []


@pytest.mark.long
@pytest.mark.parametrize("victim", ["guard", "worker"])
def test_a_kill_leaves_no_process_even_without_prctl(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """As on macOS, where no process ends with its parent. A child in a separate session may outlive a killed worker."""
    monkeypatch.setenv(NO_PRCTL, "1")
    monkeypatch.setenv("FT_WORKER_ENV", NO_PRCTL)
    builder = build(store, "family", stubborn=True)
    pids = family_pids(store)
    os.kill(dict(zip(("worker", "guard"), pids, strict=False))[victim], signal.SIGKILL)
    builder.communicate(timeout=PATIENCE)
    wait_until(lambda: all_gone(pids[:3]), "the worker and its group ended")
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_worker_that_ignores_every_request_to_stop_is_killed(launcher: LocalLauncher, tmp_path: Path) -> None:
    worker_job = job(tmp_path, "family", stubborn=True)
    with pytest.raises(Cancelled):
        run_worker(None, worker_job, launcher, on_progress=cancel, stop_sequence=SHORT)
    pids = [int(pid) for pid in (worker_job.work / "pids").read_text().split()]
    wait_until(lambda: all_gone(pids), "the worker and its children ended")


def test_children_do_not_outlive_a_successful_job(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = run_worker(None, job(tmp_path, "family", ends=True), launcher)
    assert all_gone(result.summary["pids"])


def test_threads_that_outlive_the_job_do_not_abort_it(launcher: LocalLauncher, tmp_path: Path) -> None:
    """Gloo's threads once aborted Python's exit after a successful training by two processes."""
    assert run_worker(None, job(tmp_path, "threads"), launcher).summary == {"groups": 2}


def test_two_builders_at_once_build_once(store: ArtifactStore) -> None:
    builders = [build(store, "count", steps=5, sleep=0.2) for _ in range(2)]
    results = [json.loads(builder.communicate(timeout=PATIENCE)[0]) for builder in builders]
    assert sorted(result["reused"] for result in results) == [False, True]
    assert results[0]["path"] == results[1]["path"]
    assert len(store.all()) == 1


def test_the_next_builder_resumes_after_a_killed_one(store: ArtifactStore) -> None:
    first = build(store, "count", steps=15, sleep=0.1)
    wait_until(lambda: any((store.root / "work").rglob("done")), "the first builder is under way")
    first.kill()
    first.communicate()
    second = build(store, "count", steps=15, sleep=0.1)
    result = json.loads(second.communicate(timeout=PATIENCE)[0])
    manifest = json.loads((Path(result["path"]) / "manifest.json").read_bytes())
    assert manifest["summary"]["resumed_from"] >= 1
    assert list((store.root / "drafts").iterdir()) == []


def test_a_worker_that_cannot_start_is_an_error(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"No module named ft_pipeline_tests\.nothing"):
        run_worker(None, job(tmp_path, "count"), LocalLauncher("ft_pipeline_tests.nothing"))
