"""Two weeks of changing raw files: what runs automatically, what does not, and why."""

import os
from collections.abc import Iterable
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from ft_pipeline.decide.exposure import USED_UP
from ft_pipeline.defs import project_changes
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import make_items
from ft_pipeline.execution.planning import plan
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import Artifact, ArtifactStore, Draft
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.automation.simulated import Simulation, rows
from ft_pipeline_tests.release.test_exposure import look_at
from ft_pipeline_tests.tables.helpers import logged_call


def new_train_rows(shop: Simulation, before: Artifact) -> int:
    return conversations(shop).summary["splits"]["train"] - before.summary["splits"]["train"]


def conversations(shop: Simulation) -> Artifact:
    pointer = AssetPointers(shop.store.root).read("conversations")
    assert pointer is not None
    return shop.store.require(pointer.kind, pointer.fingerprint)


@pytest.mark.long
def test_retraining_starts_only_when_its_rules_require_it(begun: Simulation) -> None:
    shop = begun
    at_first = conversations(shop)

    assert shop.next_night().skip_message == "qlora: nothing has changed since the last training"

    few = shop.write("few.jsonl", rows(16, seed=2))
    assert shop.settle() == ["raw_alpaca", "alpaca", "conversations", "quarantine"]
    decision = shop.next_night()
    count = new_train_rows(shop, at_first)
    assert 0 < count < 16
    assert decision.skip_message == f"qlora: {count} new rows, at least 50 required"
    assert not decision.run_requests

    os.utime(few)  # touched: the same bytes
    assert shop.settle() == []
    assert shop.next_night().skip_message == f"qlora: {count} new rows, at least 50 required"

    shop.write("many.jsonl", rows(80, seed=3))
    assert shop.settle() == ["raw_alpaca", "alpaca", "conversations", "quarantine"]
    (request,) = shop.next_night().run_requests or []
    count = new_train_rows(shop, at_first)
    assert (request.partition_key, request.tags["ft/reason"]) == ("qlora", f"{count} new rows")
    with shop.run_under_way("qlora"):
        assert shop.next_night().skip_message == "qlora: a run is already under way"

    # The run fails, early one night and late the next: it is requested again each time.
    assert len(shop.next_night().run_requests or []) == 1
    shop.train("qlora", until="scores")
    assert len(shop.next_night().run_requests or []) == 1
    shop.train("qlora", until="comparison")
    (request,) = shop.next_night().run_requests or []
    assert request.tags["ft/reason"].startswith("comparison: ")
    shop.train("qlora")
    assert shop.next_night().skip_message == "qlora: nothing has changed since the last training"

    broken = shop.project.raw_folder("alpaca") / "broken.jsonl"
    broken.write_bytes('[{"instruction": "Hi"'.encode("utf-16"))
    assert shop.settle() == ["raw_alpaca", "alpaca", "conversations", "quarantine"]
    shop.write("more.jsonl", rows(90, seed=4))
    assert "alpaca failed a check: all_files_readable" in (shop.next_night().skip_message or "")
    broken.unlink()
    assert [request.partition_key for request in shop.next_night().run_requests or []] == ["qlora"]
    shop.train("qlora")

    shop.write_experiment("qlora", retrain=True, training={"num_train_epochs": 4})
    (request,) = shop.next_night().run_requests or []
    assert request.tags["ft/reason"].startswith("experiment: settings changed: training.num_train_epochs")
    shop.train("qlora")

    shop.write("inbox.jsonl", [{"instruction": row["instruction"]} for row in rows(60, seed=5)], "unlabelled")
    assert shop.settle() == ["raw_unlabelled", "unlabelled", "quarantine"], "the teacher is not asked by itself"
    assert shop.next_night().skip_message == "qlora: 0 new rows, at least 50 required"

    (shop.project.root / "experiments" / "qlora.yaml").write_text("tecnique: lora\n", encoding="utf-8")
    assert "qlora.yaml: line 1: unknown key `tecnique`" in (shop.next_night().skip_message or "")
    shop.write_experiment("qlora", retrain=False)
    assert shop.next_night().skip_message == "no experiment sets `retrain: true`, and there is no champion yet"


def test_a_growing_file_is_read_only_once_it_stops_changing(shop: Simulation) -> None:
    shop.materialize("raw_alpaca")
    shop.tick_sensor()  # the first tick has nothing to compare with
    kept = sorted(shop.store.root.glob("blobs/*/*"))
    for seed in (6, 7):
        shop.write("growing.jsonl", rows(seed, seed=seed))
        result = shop.tick_sensor()
        assert sorted(shop.store.root.glob("blobs/*/*")) == kept, (
            "it is not read: a large file would be read every 20 seconds"
        )
        assert not result.run_requests
        assert result.skip_reason is not None and "(last: growing.jsonl), waiting until" in str(result.skip_reason)
    (request,) = shop.tick_sensor().run_requests or []
    (again,) = shop.tick_sensor().run_requests or []
    assert request.run_key == again.run_key, "the same change is asked for under the same key, so it runs once"


def test_a_table_whose_run_failed_is_built_the_next_day(begun: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = begun
    shop.write("more.jsonl", rows(80, seed=3))
    begin = ArtifactStore.begin

    def begin_snapshots_only(store: ArtifactStore, spec: Spec, *, from_scratch: bool = False) -> Draft:
        if not spec.kind.startswith("raw_"):
            raise UserError("The disk is full. Free some space.")
        return begin(store, spec, from_scratch=from_scratch)

    with monkeypatch.context() as full:
        full.setattr(ArtifactStore, "begin", begin_snapshots_only)
        assert shop.settle() == ["raw_alpaca", "alpaca", "conversations"], "once, and not again this day"
    assert "alpaca is not up to date" in (shop.next_night().skip_message or "")
    assert shop.settle() == ["alpaca", "conversations", "quarantine"]
    assert [request.partition_key for request in shop.next_night().run_requests or []] == ["qlora"]


def test_changing_a_file_back_is_a_new_change(shop: Simulation) -> None:
    shop.materialize("raw_alpaca")
    keys = []
    for content in (8, 9, 8, 9):
        shop.write("flips.jsonl", rows(5, seed=content))
        shop.tick_sensor()
        (request,) = shop.tick_sensor().run_requests or []
        keys.append(request.run_key)
        assert shop.materialize("raw_alpaca")
    assert len(set(keys)) == 4


def test_an_idle_check_does_not_look_at_the_stored_files(shop: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.materialize("raw_alpaca")
    shop.settle()
    looked_at: list[str] = []
    available = BlobStore.available

    def record(blobs: BlobStore, sha256s: Iterable[str]) -> set[str]:
        looked_at.extend(sha256s)
        return available(blobs, sha256s)

    monkeypatch.setattr(BlobStore, "available", record)
    for _ in range(3):
        assert not shop.tick_sensor().run_requests
    assert looked_at == []

    os.utime(shop.project.raw_folder("alpaca") / "first.jsonl")
    for _ in range(3):  # the second check reads the folder; the third has nothing to do again
        assert not shop.tick_sensor().run_requests
    assert len(looked_at) == 1

    shop.write("second.jsonl", rows(3, seed=7))
    assert shop.settle()[:1] == ["raw_alpaca"]


def use_up_test_rows(shop: Simulation) -> None:
    table = pq.read_table(conversations(shop).path / "rows.parquet")
    items = make_items([row for row in table.to_pylist() if row["split"] == "test"])
    ids = sorted({item.question_key for item in items})
    look_at(shop.store.root, 1, ids, count=USED_UP)


def test_no_night_trains_for_test_rows_that_are_used_up(begun: Simulation) -> None:
    shop = begun
    use_up_test_rows(shop)
    message = shop.next_night().skip_message or ""
    assert "qlora: 40 models of 40 settings were looked at on these" in message


@pytest.mark.long
def test_a_night_trains_again_once_there_are_unused_test_rows(begun: Simulation) -> None:
    shop = begun
    use_up_test_rows(shop)
    assert not shop.next_night().run_requests
    fresh = shop.write("more.jsonl", rows(400, seed=4))  # 15 % of these are test rows
    assert fresh.is_file() and shop.settle()
    assert shop.next_night().run_requests


ASKED_LATER = ("Do you sell maps of the moors?", "Which boots suit wet grass in spring?")
BOUGHT = [
    {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": f"Answer {ask[::-1]}"}]}
    for ask in ASKED_LATER
]


@pytest.mark.parametrize(
    ("data_format", "content", "also"),
    [
        ("chat", BOUGHT, set()),
        ("traces", [logged_call(ask, f"Answer {ask[::-1]}") for ask in ASKED_LATER], {"feedback"}),
    ],
)
def test_the_first_file_of_a_format_is_followed_once_the_graph_has_it(
    begun: Simulation, data_format: str, content: list[dict[str, Any]], also: set[str]
) -> None:
    shop = begun
    before = conversations(shop)
    assert data_format not in before.inputs
    shop.write("bought.jsonl", content, data_format)
    assert shop.settle() == []
    assert f"raw_{data_format} is not in the loaded graph" in str(shop.tick_sensor().skip_reason)
    shop.load()
    assert {f"raw_{data_format}", data_format, "conversations", "quarantine"} | also <= set(shop.settle())
    assert conversations(shop).summary["accepted"] == before.summary["accepted"] + 2
    assert shop.settle() == []


def test_a_format_that_comes_into_use_waits_for_all_folders_that_its_tables_read(shop: Simulation) -> None:
    _only_qlora(shop)
    shop.load()
    shop.first_run()
    shop.write("bought.jsonl", [logged_call(ask, f"Answer {ask[::-1]}") for ask in ASKED_LATER], "traces")
    shop.load()
    assert not shop.tick_sensor().run_requests, "the file may still be written"
    (request,) = shop.tick_sensor().run_requests or []
    names = {"raw_traces", "raw_preferences", "raw_feedback", "traces", "preferences", "feedback"}
    assert {key.to_user_string() for key in request.asset_selection or []} == {*names, "conversations", "quarantine"}
    shop.materialize("raw_traces", "raw_preferences", "raw_feedback")  # and the run dies
    (again,) = shop.tick_sensor().run_requests or []
    assert again.run_key == request.run_key, "it is repeated the next day"


def _only_qlora(shop: Simulation) -> None:
    for path in (shop.project.root / "experiments").glob("*.yaml"):
        if path.stem != "qlora":
            path.unlink()


def test_an_experiment_that_asks_for_a_table_without_rows_stops_nothing(shop: Simulation) -> None:
    _only_qlora(shop)
    shop.load()
    shop.first_run()
    assert "preferences" not in shop.graph
    before = conversations(shop)
    shop.write_experiment("pairs", objective="dpo")
    shop.load()
    assert {"raw_preferences", "preferences"} <= set(shop.settle())
    shop.write("new.jsonl", rows(3, seed=77))
    assert {"raw_alpaca", "alpaca", "conversations", "quarantine"} <= set(shop.settle())
    assert conversations(shop).summary["accepted"] == before.summary["accepted"] + 3


def test_a_folder_whose_step_is_not_loaded_does_not_fail_the_check(begun: Simulation) -> None:
    shop = begun
    shop.graph -= {"raw_alpaca"}
    shop.write("new.jsonl", rows(3, seed=77))
    assert shop.settle() == []


def test_a_changed_setting_rebuilds_the_tables_before_the_night(begun: Simulation) -> None:
    shop = begun
    shop.change_settings(data={"test_share": 0.3})
    (request,) = table_settings(shop).run_requests or []
    keys = {key.to_user_string() for key in request.asset_selection or []}
    assert {"alpaca", "conversations"} <= keys and "unlabelled" not in keys
    assert not table_settings(shop, cursor=True).run_requests, "while it is rebuilt, and if that fails, once a day"
    planned = {step.asset: step.state for step in plan(Project(shop.project.root), ["qlora"], shop.instance)}
    assert planned["conversations"] == "stale" and planned["unlabelled"] == "fresh"


@pytest.mark.long
def test_tables_that_a_changed_setting_rebuilt_are_fresh_everywhere(begun: Simulation) -> None:
    shop = begun
    before = conversations(shop)
    shop.change_settings(data={"test_share": 0.3})
    assert {"alpaca", "conversations", "quarantine"} <= set(shop.settle())
    assert conversations(shop).summary["splits"]["test"] > before.summary["splits"]["test"]
    assert shop.settle() == []
    planned = {step.asset: step.state for step in plan(Project(shop.project.root), ["qlora"], shop.instance)}
    assert {planned[name] for name in shop.tables()} == {"fresh"}
    assert set(dagster_statuses(shop, *shop.tables())) == {"FRESH"}, "Dagster's staleness says the same as the plan"
    assert "is not up to date" not in (shop.next_night().skip_message or "")


def table_settings(shop: Simulation, cursor: bool = False) -> dg.SensorResult:
    """A tick of the sensor; with a cursor: the second one in the same state."""
    result: Any = None
    for _ in range(1 + cursor):
        result = shop.part(project_changes.table_settings, result and result.cursor)
    return result


def dagster_statuses(shop: Simulation, *assets: str) -> list[str]:
    """What the UI shows as the status of these assets."""
    loading = LoadingContextForTest(shop.instance)
    resolver = CachingStaleStatusResolver(shop.instance, shop.defs.resolve_asset_graph(), loading)
    return [resolver.get_status(dg.AssetKey(asset)).value for asset in assets]
