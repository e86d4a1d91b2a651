"""A run whose process was killed is ended; a run in progress is left alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import GRPC_INFO_TAG

from ft_pipeline import scaffold
from ft_pipeline.execution.dagster_names import PROJECT_TAG, project_name
from ft_pipeline.execution.orphaned_runs import end_orphaned_runs
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.execution.conftest import PATIENCE, ROOT, all_gone, family_pids, wait_until
from ft_pipeline_tests.execution.test_run_control import ORIGIN
from ft_pipeline_tests.forked_process import ForkedProcess


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the settings of a project."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


def test_a_killed_run_is_ended(store: ArtifactStore, instance: dg.DagsterInstance) -> None:
    module = "ft_pipeline_tests.execution.orphaned_run_subject"
    run = ForkedProcess(module, str(store.root), DAGSTER_HOME=instance.root_directory)
    pids = family_pids(store)
    assert end_orphaned_runs(instance, store.root) == []
    assert [record.status for record in instance.get_runs()] == [dg.DagsterRunStatus.STARTED]

    run.send_signal(signal.SIGKILL)
    run.wait(PATIENCE)
    wait_until(lambda: all_gone(pids), "the worker and its children ended")
    (ended,) = end_orphaned_runs(instance, store.root)
    (record,) = instance.get_runs()
    assert (record.run_id, record.status) == (ended, dg.DagsterRunStatus.FAILURE)
    assert end_orphaned_runs(instance, store.root) == []


def run_subject(root: Path, subject: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the tests for a new project in `root`."""
    scaffold.create(root, example=False, small_example="classification")
    command = [sys.executable, "-m", f"ft_pipeline_tests.execution.{subject}", str(root)]
    env = {**os.environ, "FT_PROJECT": str(root), "DAGSTER_HOME": str(root / "dagster_home")}
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True)


@pytest.mark.long
def test_ft_run_that_ctrl_c_ends_is_recorded_as_canceled(tmp_path: Path) -> None:
    assert "KeyboardInterrupt" in run_subject(tmp_path / "shop", "interrupted_run_subject").stderr
    with dg.DagsterInstance.from_config(str(tmp_path / "shop" / "dagster_home")) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.CANCELED


@pytest.mark.long
def test_ft_run_that_dies_before_its_first_step_is_ended(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    assert run_subject(root, "killed_run_subject").returncode == -signal.SIGKILL
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.STARTED
        assert end_orphaned_runs(instance, root / "data" / "store") == [run.run_id]
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE


@dataclass(frozen=True)
class Launched:
    """A run of a code server that has begun but has not reached its first step."""

    tags: Mapping[str, str] = field(default_factory=lambda: {GRPC_INFO_TAG: "{}", PROJECT_TAG: project_name()})
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED
    pid: int = 2**22 + 1  # larger than any
    executor: dg.ExecutorDefinition = dg.in_process_executor


@pytest.mark.parametrize(
    ("launched", "ended"),
    [
        (Launched(), True),
        (Launched(status=dg.DagsterRunStatus.CANCELING), True),
        (Launched(status=dg.DagsterRunStatus.STARTING), True),
        (Launched(status=dg.DagsterRunStatus.QUEUED), False),
        (Launched(pid=os.getpid()), False),
        (Launched(executor=dg.multiprocess_executor), False),
        (Launched({PROJECT_TAG: project_name()}), False),
        (Launched({GRPC_INFO_TAG: "{}", PROJECT_TAG: "another project"}), False),
    ],
)
def test_a_launched_run_whose_process_died_before_its_first_step_is_ended(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, launched: Launched, ended: bool
) -> None:
    @dg.op
    def thing() -> None: ...

    @dg.job(executor_def=launched.executor)
    def everything() -> None:
        thing()

    run = instance.create_run_for_job(everything, status=launched.status, tags=launched.tags, remote_job_origin=ORIGIN)
    instance.report_engine_event(f"Started process for run (pid: {launched.pid}).", run)
    assert end_orphaned_runs(instance, tmp_path / "store") == [], "it may still reach its first step"
    later = time.time() + instance.run_monitoring_start_timeout_seconds + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert end_orphaned_runs(instance, tmp_path / "store") == ([run.run_id] if ended else [])


def test_runs_of_another_store_are_left_alone(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    @dg.asset
    def thing() -> None: ...

    job = dg.Definitions(assets=[thing]).resolve_implicit_global_asset_job_def()
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert end_orphaned_runs(instance, tmp_path / "store") == []
    assert [record.status for record in instance.get_runs()] == [dg.DagsterRunStatus.STARTED]
