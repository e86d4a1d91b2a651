"""A month of unattended days with a fake clock: nothing hangs, nothing is lost, every missed training is reported.

Files, tables, sensors, schedules, failed runs and notifications are real. What a GPU would make is a stand-in.
"""

import shutil
from collections import namedtuple
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ft_pipeline.automation import notifications
from ft_pipeline.automation.nights import Night, plan_night
from ft_pipeline.automation.retraining import experiments_to_watch
from ft_pipeline.defs import housekeeping
from ft_pipeline.defs.notifications import failures
from ft_pipeline.steps.shared import compared_scores
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline_tests.automation.simulated import Simulation, rows

pytestmark = pytest.mark.long
USAGE = namedtuple("USAGE", "total used free")
THREE = ["full", "lora", "qlora"]


class Month:
    """The days of a project."""

    def __init__(self, shop: Simulation) -> None:
        self.shop = shop
        self.has_gpu = True
        self.free_gb = 100.0
        self.files = 0

    def add_rows(self, count: int) -> None:
        self.files += 1
        self.shop.write(f"day{self.files}.jsonl", rows(count, seed=100 + self.files))

    def break_experiment(self, name: str) -> None:
        (self.shop.project.root / "experiments" / f"{name}.yaml").write_text("tecnique: lora\n", encoding="utf-8")

    def night(self) -> list[str]:
        """One day and its night; returns the experiments that were trained, or whose training failed."""
        self.shop.tick_files()
        self.shop.settle()
        planned = plan_night(self.shop.project)
        requests = self.shop.next_night().run_requests or []
        names = [request.partition_key for request in requests]
        assert sorted(names) == sorted(planned.due)
        self.require_that_the_rest_is_reported(planned)
        for request in requests:
            if self.has_gpu:
                self.shop.train(request.partition_key)
            else:
                self.fail(request.tags)
        housekeeping.disk_space(dg.build_sensor_context(self.shop.instance))
        return names

    def require_that_the_rest_is_reported(self, planned: Night) -> None:
        watched = set(experiments_to_watch(self.shop.project))
        assert watched == planned.due.keys() | planned.not_due.keys() | planned.untrained.keys()
        entries = [entry for entry in self.shop.notifications() if entry["kind"] == "not_trained"]
        for name, reason in planned.untrained.items():
            age = self.shop.now - datetime.fromisoformat(entries[-1]["time"])
            assert f"{name}: {reason}" in entries[-1]["message"] and age < timedelta(days=1)

    def fail(self, tags: Any) -> None:
        """A run that ends because its GPU is gone."""
        job = self.shop.defs.resolve_job_def("retraining")
        run = self.shop.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
        event = self.shop.instance.report_run_failed(run, "adapter needs a GPU, and this machine has none.")
        context = dg.build_run_status_sensor_context("failures", event, self.shop.instance, run)
        failures(context.for_run_failure())

    def reported(self, kind: str) -> int:
        return sum(entry["kind"] == kind for entry in self.shop.notifications())


@pytest.fixture
def month(shop: Simulation, monkeypatch: pytest.MonkeyPatch) -> Month:
    shop.write("second.jsonl", rows(60, seed=99))
    lived = Month(shop)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return shop.now

    monkeypatch.setattr(notifications, "datetime", Clock)
    monkeypatch.setattr(compared_scores, "find_contaminated", lambda *arguments: {})  # stand-ins contain no rows
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(1e12, 0, lived.free_gb * 1e9))
    assert shop.materialize(*(f"raw_{name}" for name in FORMATS), *shop.tables())
    return lived


def nights(month: Month, count: int) -> list[list[str]]:
    return [month.night() for _ in range(count)]


def test_a_month(month: Month) -> None:
    shop, quiet = month.shop, []
    assert nights(month, 3) == [["qlora"], quiet, quiet]

    month.add_rows(20)
    assert nights(month, 2) == [quiet, quiet], "too few new rows"
    month.add_rows(80)
    assert nights(month, 2) == [["qlora"], quiet]

    shop.write_experiment("newer", retrain=True)  # while the services run
    shop.write_experiment("lora", retrain=True)
    assert nights(month, 2) == [["lora", "newer", "qlora"], quiet], "what is recommended depends on all experiments"

    month.break_experiment("newer")
    month.add_rows(80)
    assert nights(month, 3) == [["lora", "qlora"], quiet, quiet]
    assert month.reported("not_trained") == 3, "each day"
    shop.write_experiment("newer", retrain=True)
    assert nights(month, 2) == [["lora", "newer", "qlora"], quiet]
    (shop.project.root / "experiments" / "newer.yaml").unlink()
    assert nights(month, 2) == [["lora", "qlora"], quiet], "they are compared without it"
    assert "newer" not in shop.instance.get_dynamic_partitions("experiments")

    for name in THREE:
        shop.write_experiment(name, retrain=True)
    month.add_rows(80)
    assert nights(month, 1) == [THREE]
    shop.change_settings(data={"max_quarantined": 0.3})
    assert nights(month, 2) == [quiet, quiet], "the tables followed the setting, and no row is new"
    assert month.reported("not_trained") == 3

    month.has_gpu = False
    month.add_rows(120)
    assert nights(month, 2) == [THREE, THREE], "a training that failed is requested again"
    assert month.reported("run_failed") == 2 * len(THREE)
    month.has_gpu = True
    assert nights(month, 2) == [THREE, quiet], "nothing was lost"

    month.free_gb = 5
    assert nights(month, 3) == [quiet] * 3
    assert month.reported("disk_low") >= 3, "each day"
    month.free_gb = 100
    before = month.reported("disk_low")
    broken = shop.project.raw_folder("alpaca") / "broken.jsonl"
    broken.write_bytes('[{"instruction": "Hi"'.encode("utf-16"))
    assert nights(month, 2) == [quiet, quiet]
    broken.unlink()
    month.add_rows(120)
    assert nights(month, 2) == [THREE, quiet]
    assert month.reported("disk_low") == before and month.reported("not_trained") == 5
