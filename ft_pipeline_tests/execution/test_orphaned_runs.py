"""A run whose process was killed is ended; a run in progress is left alone."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ft_pipeline.execution.orphaned_runs import end_orphaned_runs
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.execution.conftest import PATIENCE, ROOT, all_gone, family_pids, wait_until


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
    env = {**os.environ, "DAGSTER_HOME": instance.root_directory}
    run = subprocess.Popen([sys.executable, "-m", module, str(store.root)], env=env, stderr=subprocess.DEVNULL)
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


def test_runs_of_another_store_are_left_alone(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    @dg.asset
    def thing() -> None: ...

    job = dg.Definitions(assets=[thing]).resolve_implicit_global_asset_job_def()
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert end_orphaned_runs(instance, tmp_path / "store") == []
    assert [record.status for record in instance.get_runs()] == [dg.DagsterRunStatus.STARTED]
