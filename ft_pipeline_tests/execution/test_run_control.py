"""`ft status`, `ft logs` and `ft cancel` over a real instance: runs that run, wait, are queued, failed, or are gone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.execution.workers.device_leases import device_locks
from ft_pipeline.execution.workers.device_line import device_uses
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.audit.shop import Shop
from ft_pipeline_tests.execution.conftest import PATIENCE, ROOT, all_gone, family_pids, wait_until
from ft_pipeline_tests.forked_process import ForkedProcess

ORIGIN = RemoteRepositoryOrigin(
    GrpcServerCodeLocationOrigin("localhost", port=1, location_name="ft_pipeline"), "__repository__"
).get_job_origin("retraining")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder without definitions: none of the three commands reads them."""
    root = tmp_path / "shop"
    (root / "dagster_home").mkdir(parents=True)
    (root / "project.yaml").touch()
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", root / "dagster_home")
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    return root


@pytest.fixture
def instance(project: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(project / "dagster_home")) as opened:
        yield opened


def ft(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit) or result.exit_code == 1, (
        result.exception
    )
    return result.exit_code, result.output if result.exception is None else f"{result.output}{result.exception}"


def status() -> dict[str, Any]:
    return json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)


def start(project: Path, kind: str, **config: Any) -> ForkedProcess:
    module = "ft_pipeline_tests.execution.queue_subject"
    return ForkedProcess(module, str(project / "data" / "store"), kind, json.dumps(config))


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["qlora"]))
def scores() -> None:
    raise dg.Failure("the GPU fell off the bus\nsecond line")


def test_a_queued_and_a_failed_run_are_shown_and_the_queued_one_is_canceled(instance: dg.DagsterInstance) -> None:
    failed = dg.materialize([scores], instance=instance, partition_key="qlora", raise_on_error=False)
    job = dg.Definitions(assets=[scores]).resolve_implicit_global_asset_job_def()
    queued = instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus.QUEUED,
        tags={"dagster/partition": "lora", "dagster/schedule_name": "nightly"},
        remote_job_origin=ORIGIN,
    )
    shown = status()
    (row,) = shown["runs"]
    assert (row["run_id"], row["experiment"], row["state"], row["started_by"]) == (
        queued.run_id,
        "lora",
        "queued",
        "nightly",
    )
    (row,) = shown["failed"]
    assert (row["run_id"], row["reason"]) == (failed.run_id, "scores: the GPU fell off the bus")
    assert (shown["daemon_runs"], shown["champion"]) == (False, None) and shown["disk"]["free_bytes"] > 0
    text = ft("status")[1]
    assert "queued" in text and "the GPU fell off the bus" in text and "No daemon runs" in text

    assert ft("cancel", "lora")[0] == 0
    run = instance.get_run_by_id(queued.run_id)
    assert run is not None and run.status == dg.DagsterRunStatus.CANCELED
    assert "There is nothing to cancel" in ft("cancel", queued.run_id[:8])[1]
    assert "is named 'lara'" in ft("cancel", "lara")[1]
    assert status()["runs"] == []


@dg.asset(check_specs=[dg.AssetCheckSpec("no_over_length", asset="training_data", blocking=True)])
def training_data() -> dg.MaterializeResult:
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False)])


def test_a_failed_check_is_named(instance: dg.DagsterInstance) -> None:
    dg.materialize([training_data], instance=instance, raise_on_error=False)
    (row,) = status()["failed"]
    assert row["reason"] == "training_data: failed the check no_over_length"


def test_the_champion_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(tmp_path / "shop")
    shop.write_project()
    record = shop.release(shop.materialize())
    monkeypatch.setenv("DAGSTER_HOME", str(shop.root / "dagster_home"))
    code, output = ft("status", "--project", str(shop.root))
    assert code == 0 and f"Champion: {record.name}, since {record.since[:16]}." in output


def test_the_log_of_a_run_is_printed_by_experiment_or_by_id(instance: dg.DagsterInstance) -> None:
    run = dg.materialize([scores], instance=instance, partition_key="qlora", raise_on_error=False)
    code, text = ft("logs", "qlora", "--follow")
    assert code == 0 and "the GPU fell off the bus" in text and "scores" in text
    assert "intends to materialize" not in text, "lines that say nothing are left out"
    assert ft("logs", run.run_id[:6]) == (0, text)


def test_a_run_whose_process_is_gone_is_shown_and_marked(project: Path, instance: dg.DagsterInstance) -> None:
    job = dg.Definitions(assets=[scores]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    lock = project / "data" / "store" / "locks" / "runs" / run.run_id
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert [row["state"] for row in status()["runs"]] == ["process gone"]
    assert "its process was gone" in ft("cancel", run.run_id)[1]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None and ended.status == dg.DagsterRunStatus.CANCELED


def test_a_run_that_cannot_be_reached_is_marked_only_with_force(instance: dg.DagsterInstance) -> None:
    job = dg.Definitions(assets=[scores]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert "cannot be reached" in ft("cancel", run.run_id)[1]
    assert "nothing was done to its process" in ft("cancel", run.run_id, "--force")[1]
    assert status()["runs"] == []


def test_a_running_and_a_waiting_run_are_shown_and_canceled(project: Path, instance: dg.DagsterInstance) -> None:
    store = ArtifactStore(project / "data" / "store")
    holder = start(project, "family")
    pids = family_pids(store)
    waiting = start(project, "count", steps=1)
    try:
        wait_until(lambda: any(use.waiting for use in device_uses(device_locks(store.root))), "the second run waits")
        running, waits = status()["runs"]
        assert (running["state"], waits["state"]) == ("running", "waiting")
        assert waits["reason"] == f"for cpu, behind adapter of run {running['run_id'][:8]} (process {holder.pid})"
        for row, process in ((waits, waiting), (running, holder)):
            assert "canceled" in ft("cancel", row["run_id"][:8])[1]
            process.wait(PATIENCE)
            run = instance.get_run_by_id(row["run_id"])
            assert run is not None and run.status == dg.DagsterRunStatus.CANCELED
        wait_until(lambda: all_gone(pids), "the worker and its children ended")
        assert device_uses(device_locks(store.root)) == []
    finally:
        for process in (holder, waiting):
            if process.is_running():
                process.kill()
                process.wait(PATIENCE)
