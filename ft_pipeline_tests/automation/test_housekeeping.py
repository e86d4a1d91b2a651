"""Old runs are removed from a real instance, failures that last are reported again, and a full disk is announced."""

import shutil
from collections import namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from ft_pipeline.automation.lasting_failures import report_lasting_failures
from ft_pipeline.automation.notifications import Notification, notify
from ft_pipeline.defs import housekeeping
from ft_pipeline.execution.dagster_names import STARTED_BY
from ft_pipeline.execution.run_retention import purge_runs
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.automation.test_notifications import log_of
from ft_pipeline_tests.projects import project_of

EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiments")
NOW = datetime.now(UTC)


@dg.asset
def alpaca() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion("1"))


@dg.asset(partitions_def=EXPERIMENTS, deps=[alpaca])
def scores() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion("1"))


@dg.asset
def of_another_project() -> None: ...


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        instance.add_dynamic_partitions("experiments", ["lora", "qlora"])
        yield instance


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "shop").mkdir()
    project = project_of(tmp_path / "shop", qlora="technique: qlora\n")
    (project.root / "project.yaml").write_text("name: shop\n", encoding="utf-8")
    project.store.mkdir(parents=True)
    monkeypatch.setenv("FT_PROJECT", str(project.root))
    return project


def run(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None) -> str:
    """Materialize an asset as `ft run` does; another project's without the tag of `ft run`."""
    tags = {} if asset is of_another_project else {STARTED_BY: "cli"}
    done = dg.materialize(
        [alpaca, scores, of_another_project],
        instance=instance,
        selection=[asset],
        partition_key=partition,
        tags=tags,
    )
    return done.run_id


def purge(instance: dg.DagsterInstance, before: datetime, limit: int = 50) -> list[str]:
    """Remove the runs of this project, page by page."""
    removed, cursor = [], ""
    while True:
        page = purge_runs(instance, before, {"alpaca", "scores"}, {"retraining"}, cursor=cursor, limit=limit)
        removed += page.removed
        cursor = page.cursor
        if not cursor:
            return removed


def test_old_runs_are_removed_and_what_is_current_stays(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    old = [run(instance, alpaca), run(instance, scores, "lora"), run(instance, scores, "lora")]
    kept = [run(instance, scores, "lora"), run(instance, scores, "qlora"), run(instance, alpaca)]
    foreign = [run(instance, of_another_project), run(instance, of_another_project)]
    queued = instance.create_run_for_job(
        dg.Definitions(assets=[alpaca]).resolve_implicit_global_asset_job_def(), status=dg.DagsterRunStatus.STARTED
    )
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert purge(instance, later - timedelta(days=1)) == []
    shards = {path.stem for path in tmp_path.rglob("runs/*.db")}
    assert {*old, *kept} <= shards, "SQLite keeps a file per run"

    assert set(purge(instance, later, limit=2)) == set(old)
    assert {record.run_id for record in instance.get_runs()} == {*kept, *foreign, queued.run_id}
    assert not {*old} & {path.stem for path in tmp_path.rglob("runs/*.db")}
    assert instance.get_materialized_partitions(scores.key) == {"lora", "qlora"}
    latest = instance.get_latest_materialization_event(alpaca.key)
    assert latest is not None and latest.run_id == kept[-1]
    records = instance.fetch_materializations(scores.key, limit=9).records
    assert {record.run_id for record in records} == set(kept[:2])
    assert purge(instance, later) == [], "a second look removes nothing"


def test_the_setting_decides_which_runs_are_old(
    instance: dg.DagsterInstance, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "STEPS", {"alpaca": None})
    runs = [run(instance, alpaca), run(instance, alpaca)]

    def tick(settings: str) -> str:
        (shop.root / "project.yaml").write_text(f"name: shop\nretention: {settings}\n", encoding="utf-8")
        with dg.build_sensor_context(instance) as context:
            result = housekeeping.old_runs(context)
        return str(result.skip_reason.skip_message if isinstance(result, dg.SensorResult) else result.skip_message)

    assert tick("{}") == "no run to remove"
    assert tick("{run_days: null}") == "retention.run_days is null: all runs are kept"
    assert "run_days" in tick("{run_days: 0}") and len(instance.get_runs()) == 2
    assert tick("{run_days: 0.0000001}") == "removed 1 runs"
    assert [record.run_id for record in instance.get_runs()] == runs[1:]


def test_a_disk_that_fills_is_reported_once_a_day(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    free = {"bytes": 11e9}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100e9, 0, free["bytes"]))
    assert housekeeping.disk_space(dg.build_sensor_context()).skip_message == "there is enough space"
    free["bytes"] = 9e9
    for _ in range(2):
        housekeeping.disk_space(dg.build_sensor_context())
    (entry,) = log_of(shop)
    assert entry["kind"] == "disk_low"
    assert entry["message"].startswith("less than 10 GB are free for data/store. Free some space")


def test_a_failure_that_lasts_is_reported_again_each_day(shop: Project, instance: dg.DagsterInstance) -> None:
    table = Notification("gate_failed", "alpaca: all_files_readable: export.jsonl", "run1", "alpaca")
    training = Notification("run_failed", "adapter [qlora]: no memory", "run2")
    crash = Notification("run_failed", "__ASSET_JOB: the process of this run died", "run3", "job __ASSET_JOB")
    for notification in (table, training, crash):
        notify(shop, notification, NOW - timedelta(hours=80))
    publish(shop, passed=False)

    def report(now: datetime) -> list[str]:
        count = len(log_of(shop))
        report_lasting_failures(shop, instance, now)
        return [f"{entry['kind']} {entry['subject']}" for entry in log_of(shop)[count:]]

    both = ["still_failing alpaca", "still_failing job __ASSET_JOB"]
    assert sorted(report(NOW - timedelta(hours=54))) == both
    assert report(NOW - timedelta(hours=50)) == []
    assert sorted(report(NOW - timedelta(hours=28))) == both
    first = log_of(shop)[0]["time"][:16].replace("T", " ")
    assert f"since {first} UTC: {table.message}" in [entry["message"] for entry in log_of(shop)[-2:]]
    publish(shop, passed=True)
    assert report(NOW) == ["still_failing job __ASSET_JOB"]


def publish(project: Project, passed: bool) -> None:
    store = ArtifactStore(project.store)
    draft = store.begin(Spec("alpaca", config={"passed": passed}))
    (draft.out / "content").write_text(str(passed), encoding="utf-8")
    check = {"passed": passed, "blocking": True, "message": "export.jsonl"}
    AssetPointers(store.root).write("alpaca", None, store.commit(draft, {"checks": {"all_files_readable": check}}))
