"""Nights with several experiments: each one that is due is trained, and every training that is missed is reported."""

from datetime import timedelta

import dagster as dg
import pytest

from ft_pipeline.automation import nights
from ft_pipeline.automation.notifications import Notification
from ft_pipeline.automation.retraining import RetrainingDecision
from ft_pipeline.execution.partitions import experiments, partitions_name
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline_tests.automation.simulated import Simulation


def decide(shop: Simulation, monkeypatch: pytest.MonkeyPatch, *decisions: RetrainingDecision) -> None:
    """Let the next nights decide this."""
    monkeypatch.setattr(nights, "decide_retrainings", lambda project: list(decisions))


def due(name: str) -> RetrainingDecision:
    return RetrainingDecision(name, True, "60 new rows")


def blocked(name: str, reason: str = "alpaca failed a check") -> RetrainingDecision:
    return RetrainingDecision(name, False, reason, blocked=True)


def reported(shop: Simulation) -> list[str]:
    return [entry["message"] for entry in shop.notifications() if entry["kind"] == "not_trained"]


def test_several_are_due_one_is_new_and_one_is_broken(shop: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shop.materialize(*(f"raw_{name}" for name in FORMATS), *shop.tables())
    shop.write_experiment("lora", retrain=True)
    shop.write_experiment("newer", retrain=True)  # after the definitions were loaded, and before a tick of the sensor
    (shop.project.root / "experiments" / "full.yaml").write_text("tecnique: full\n", encoding="utf-8")

    tonight = shop.now.replace(hour=2) + timedelta(days=1)
    decision = shop.tick("nightly", tonight)
    requests = decision.run_requests or []
    assert [request.partition_key for request in requests] == ["lora", "newer", "qlora"]
    (message,) = reported(shop)
    assert message.startswith("full: full.yaml: line 1: unknown key `tecnique`")

    again = shop.tick("nightly", tonight).run_requests or []
    keys = [request.run_key for request in requests]
    assert [request.run_key for request in again] == keys and len(set(keys)) == 3
    assert len(reported(shop)) == 1, "the same tick is not reported twice"
    next_one = shop.tick("nightly", tonight + timedelta(days=1)).run_requests or []
    assert not {request.run_key for request in next_one} & set(keys)
    assert len(reported(shop)) == 2, "what lasts is reported again the next day"

    weekly = shop.tick("weekly", tonight).run_requests or []
    assert {request.partition_key for request in weekly} == set(shop.project.experiment_names()) - {"full"}
    assert len({request.run_key for request in weekly}) == len(weekly)

    job = shop.defs.resolve_job_def("retraining")
    run = shop.instance.create_run_for_job(job, tags=requests[1].tags, status=dg.DagsterRunStatus.STARTED)
    assert run.tags["dagster/partition"] == "newer"


def test_an_error_of_any_type_spoils_only_its_own_experiment(shop: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    from ft_pipeline.automation import retraining

    shop.write_experiment("lora", retrain=True)
    whole = retraining.decide_retraining

    def decide_some(planner: retraining.Planner, name: str) -> RetrainingDecision:
        if name == "lora":
            raise ZeroDivisionError("division by zero")
        return whole(planner, name)

    monkeypatch.setattr(retraining, "decide_retraining", decide_some)
    decision = shop.next_night()
    reason = "lora: it could not be planned (ZeroDivisionError: division by zero)"
    assert decision.skip_message == f"{reason}; qlora: raw_alpaca is not up to date: never materialized"
    assert reported(shop) == [decision.skip_message]


def test_a_project_that_cannot_be_read_is_reported(shop: Simulation) -> None:
    (shop.project.root / "project.yaml").write_text("nmae: x\n", encoding="utf-8")
    shop.now += timedelta(days=1)
    decision = shop.tick("nightly", shop.now)
    assert "project.yaml: line 1: unknown key `nmae`" in decision.skip_message
    assert reported(shop) == [decision.skip_message]


def test_a_missed_training_is_reported_once_a_day_and_at_once_if_its_reason_changes(
    shop: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(shop, monkeypatch, blocked("qlora"), due("lora"))
    for minute in range(3):  # a schedule that runs every minute
        assert len(shop.tick("nightly", shop.now + timedelta(minutes=minute)).run_requests) == 1
    assert reported(shop) == ["qlora: alpaca failed a check"]
    decide(shop, monkeypatch, blocked("qlora", "alpaca is not up to date"), due("lora"))
    shop.tick("nightly", shop.now + timedelta(minutes=3))
    assert reported(shop)[1:] == ["qlora: alpaca is not up to date"]
    decide(shop, monkeypatch, blocked("qlora"), due("lora"))
    shop.tick("nightly", shop.now + timedelta(minutes=4))
    decide(shop, monkeypatch, blocked("qlora", "alpaca is not up to date"), due("lora"))
    assert len(reported(shop)) == 2, "the first reason was reported on this day, too"
    shop.tick("nightly", shop.now + timedelta(days=1))
    assert reported(shop)[2:] == ["qlora: alpaca is not up to date"]


def test_a_run_that_is_under_way_since_yesterday_is_reported(shop: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    decide(shop, monkeypatch, due("qlora"), due("lora"))
    with shop.run_under_way("qlora"):
        created = shop.instance.get_run_records(limit=1)[0].create_timestamp
        (request,) = shop.tick("nightly", created + timedelta(hours=1)).run_requests
        assert request.partition_key == "lora" and reported(shop) == []
        shop.tick("nightly", created + timedelta(hours=24))
    (message,) = reported(shop)
    assert message.startswith("qlora: a run is already under way since ") and message.endswith("Cancel it if it hangs")


def test_a_tick_in_which_the_daemon_died_is_completed(shop: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler has created a run and not started it. It evaluates the tick again, and finds the run by its key."""
    decide(shop, monkeypatch, due("qlora"), due("lora"))
    (created, other) = shop.tick("nightly", shop.now).run_requests
    shop.create_run(created, shop.now)
    again = shop.tick("nightly", shop.now).run_requests
    assert [request.run_key for request in again] == [created.run_key, other.run_key]
    (next_one,) = shop.tick("nightly", shop.now + timedelta(minutes=1)).run_requests
    assert next_one.partition_key == other.partition_key, "for any other tick it is under way"
    weekly = shop.tick("weekly", shop.now).run_requests
    assert created.partition_key not in {request.partition_key for request in weekly}


def test_partitions_follow_the_files(shop: Simulation) -> None:
    def keys() -> set[str]:
        return set(shop.instance.get_dynamic_partitions(partitions_name()))

    assert shop.tick_files().skip_reason is not None
    assert keys() == set(shop.project.experiment_names())
    shop.write_experiment("newer", seeds=3)
    shop.tick_files()
    assert {"newer", "newer.seed1", "newer.seed2"} <= keys()
    shop.write_experiment("newer", sseds=3)
    shop.tick_files()
    assert "newer.seed2" in keys(), "a YAML that is broken for a moment removes nothing"
    file = shop.project.root / "experiments" / "newer.yaml"
    file.unlink()
    shop.tick_files()
    assert "newer" in keys(), "a file may be replaced by removing it first"
    with shop.run_under_way("newer"):
        shop.tick_files()
        assert "newer" in keys() and "newer.seed1" not in keys()
    shop.tick_files()
    assert str(shop.tick_files().skip_reason.skip_message) == "removed newer"
    assert keys() == set(shop.project.experiment_names())


def test_what_was_materialized_with_static_partitions_is_found(shop: Simulation) -> None:
    """An instance of an older version, and a removed experiment: the history stays."""

    def asset_with(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
        @dg.asset(partitions_def=partitions)
        def adapter() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion("1"))

        return adapter

    dg.materialize(
        [asset_with(dg.StaticPartitionsDefinition(["qlora", "gone"]))], instance=shop.instance, partition_key="qlora"
    )
    dg.materialize(
        [asset_with(dg.StaticPartitionsDefinition(["qlora", "gone"]))], instance=shop.instance, partition_key="gone"
    )
    shop.tick_files()
    key = dg.AssetKey("adapter")
    assert shop.instance.get_materialized_partitions(key) == {"qlora", "gone"}
    dg.materialize([asset_with(experiments())], instance=shop.instance, partition_key="qlora")
    counts = [record.partition_key for record in shop.instance.fetch_materializations(key, limit=9).records]
    assert counts == ["qlora", "gone", "qlora"]


def test_notifications_without_a_subject_are_never_held_back(shop: Simulation) -> None:
    for _ in range(2):
        nights.notify_daily(shop.project, Notification("run_failed", "adapter: no"), shop.now)
    assert len(shop.notifications()) == 2
