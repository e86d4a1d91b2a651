"""With a real Dagster instance: observations and logs arrive, errors are readable, and a cancel ends the worker."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ft_pipeline.events import StepEvent, listening
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.execution.conftest import PATIENCE, alive, all_gone, family_pids, wait_until
from ft_pipeline_tests.execution.dagster_subject import make_asset


def run(
    store: ArtifactStore, kind: str, instance: dg.DagsterInstance, **config: object
) -> tuple[dg.ExecuteInProcessResult, list[dg.EventLogEntry]]:
    asset = make_asset(store.root, kind, config, retries=1)
    tags = {"ft/started_by": "cli someone"}
    result = dg.materialize([asset], instance=instance, partition_key="qlora", raise_on_error=False, tags=tags)
    return result, list(instance.all_logs(result.run_id))


def test_progress_becomes_log_lines_and_plot_points(store: ArtifactStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result, log = run(store, "count", instance, steps=6, sleep=0.05)
        assert result.success
        messages = [entry.user_message for entry in log]
        assert "starting at step 0" in messages
        assert any(message.startswith("adapter [qlora]: 6/6, loss 0.1667") for message in messages)
        observations = instance.fetch_observations(dg.AssetKey("adapter"), limit=10).records
        last = observations[0].event_log_entry.asset_observation
        assert last is not None and last.partition == "qlora"
        assert last.metadata["step"].value == 6
        assert last.metadata["loss"].value == pytest.approx(1 / 6)
        materialized = instance.get_latest_materialization_event(dg.AssetKey("adapter"))
        assert materialized is not None and materialized.asset_materialization is not None
        (artifact,) = store.all()
        assert (materialized.asset_materialization.tags or {})["dagster/data_version"] == artifact.fingerprint
        assert artifact.manifest["run"]["run_id"] == result.run_id
        assert artifact.manifest["run"]["started_by"] == "cli someone"


def test_a_user_error_is_one_line_without_retry_or_traceback(store: ArtifactStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result, log = run(store, "refuse", instance)
        assert not result.success
        failure = result.failure_data_for_node("adapter")
        assert failure is not None and failure.user_failure_data is not None
        assert failure.user_failure_data.description == "learning_rate is 7: choose one under 1"
        assert failure.error is not None and failure.error.cause is None
        assert not any(entry.dagster_event and entry.dagster_event.is_step_up_for_retry for entry in log)


def test_a_killed_worker_is_retried_and_resumes(store: ArtifactStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result, log = run(store, "count", instance, steps=6, die_at=4, signal=int(signal.SIGKILL))
        assert result.success
        retries = [entry for entry in log if entry.dagster_event and entry.dagster_event.is_step_up_for_retry]
        assert len(retries) == 1
        assert store.all()[0].summary["resumed_from"] == 4


@pytest.mark.parametrize("times", [1, 5])
def test_a_step_whose_machine_is_lost_runs_again_but_not_for_ever(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("ft_pipeline.execution.build.RETRY_SECONDS", 0)
    with dg.DagsterInstance.ephemeral() as instance:
        result, log = run(store, "lost", instance, times=times)
    assert result.success == (times == 1)
    assert "adapter [qlora]: the machine is gone. Run again." in [entry.user_message for entry in log]
    (attempts,) = (store.root / "work").rglob("attempts") if times > 1 else [None]
    assert (store.all()[0].summary["attempts"] == 2) if attempts is None else len(attempts.read_text()) == 3


def test_a_crash_shows_the_end_of_the_workers_log(store: ArtifactStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result, _ = run(store, "crash", instance)
        failure = result.failure_data_for_node("adapter")
        assert failure is not None and failure.user_failure_data is not None
        assert "ZeroDivisionError" in (failure.user_failure_data.description or "")
        assert "about to divide" in str(failure.user_failure_data.metadata["log_tail"].value)
        assert failure.user_failure_data.metadata["exit_code"].value == 1


def test_listeners_receive_what_a_step_waits_for(store: ArtifactStore) -> None:
    """`ft run` needs these events, because it does not show Dagster's log."""
    lock, events = store.lock(Spec("count", config={"steps": 1})), []

    def record(event: StepEvent) -> None:
        events.append((event.asset, event.experiment, event.ended, event.message))
        lock.release()

    assert lock.try_acquire()
    with dg.DagsterInstance.ephemeral() as instance, listening(StepEvent, record):
        assert run(store, "count", instance, steps=1)[0].success
    assert events == [("adapter", "qlora", False, f"waiting: {lock.purpose} is under way in {lock.holder()}")]


def start(store: ArtifactStore, home: Path, kind: str, **config: object) -> subprocess.Popen[str]:
    home.mkdir()
    module = "ft_pipeline_tests.execution.dagster_subject"
    command = [sys.executable, "-m", module, str(store.root), kind, json.dumps(config), str(home)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_interrupting_a_run_ends_the_worker_and_keeps_the_checkpoint(store: ArtifactStore, tmp_path: Path) -> None:
    process = start(store, tmp_path / "home", "family")
    pids = family_pids(store)
    assert all(map(alive, pids))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    wait_until(lambda: all_gone(pids), f"the worker and its children ended; {errors[-3000:]}")
    assert [path.read_text() for path in (store.root / "work").rglob("checkpoint")] == ["kept"]
    assert store.all() == []


@pytest.mark.long
@pytest.mark.parametrize("victim", ["run", "step"])
def test_killing_the_run_or_the_step_leaves_no_process(store: ArtifactStore, tmp_path: Path, victim: str) -> None:
    process = start(store, tmp_path / "home", "family", stubborn=victim == "step")
    pids = family_pids(store)
    step = psutil.Process(pids[1]).ppid()
    assert step != process.pid, "the step runs in a separate process"
    os.kill(process.pid if victim == "run" else step, signal.SIGKILL)
    wait_until(lambda: all_gone(pids), "the worker and its children ended")
    if victim == "run":
        wait_until(lambda: not alive(step), "the step ended")
    process.communicate(timeout=PATIENCE)
    assert store.all() == []
