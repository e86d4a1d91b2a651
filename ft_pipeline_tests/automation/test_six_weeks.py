"""Six weeks of unattended nights with a fake clock, and what must be true after each one.

The days are random: new rows, broken files, failing trainings, a full disk, daemons that die, two daemons at once.

Files, tables, sensors, schedules, runs and notifications are real. What a GPU would make is a stand-in. The daemon is
the one part that is imitated: `SixWeeks` creates, starts and ends runs in its place.
"""

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType

from ft_pipeline.automation import notifications
from ft_pipeline.automation.nights import Night, plan_night
from ft_pipeline.defs import housekeeping, project_changes
from ft_pipeline.defs import notifications as notifying
from ft_pipeline.defs.notifications import failures
from ft_pipeline.errors import UserError
from ft_pipeline.execution.run_overview import ACTIVE, run_lock_path
from ft_pipeline.steps.shared import compared_scores
from ft_pipeline.store import asset_pointers
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline_tests.automation.simulated import Simulation, rows
from ft_pipeline_tests.automation.test_month import USAGE, Month

pytestmark = [pytest.mark.long, pytest.mark.story]

NIGHTS = 42
SEED = 24
MIN_NEW_ROWS = 30
MAX_FILES = 20
"""Older raw files are removed, so that the tables of the last nights are as quick as those of the first ones."""
DAYS = {
    "ordinary": 62,
    "broken YAML": 5,
    "broken file": 5,
    "failing training": 6,
    "full disk": 3,
    "other settings": 3,
    "another experiment": 3,
    "run created, daemon died": 4,
    "run started, daemon died": 4,
    "daemon was late": 2,
    "two daemons": 3,
}
"""Kind of day → how many of a hundred days, beside one day of each kind."""
SOUND = DAYS.keys() - {"broken YAML", "broken file", "failing training", "full disk", "run started, daemon died"}
"""Kinds of nights in which everything that is due is trained."""

BUSY = {kind for kind in DAYS if "daemon" in kind or kind in {"failing training", "full disk"}}
"""Kinds of days on which so many rows arrive that a training is due."""


class SixWeeks(Month):
    """The nights of six weeks, and what was seen."""

    def __init__(self, shop: Simulation) -> None:
        super().__init__(shop)
        self.draw = random.Random(SEED)
        self.is_disk_full = False
        self.pending_rows = 0
        """Rows of the raw files that no complete training of `qlora` has seen."""
        self.has_news = True
        """Whether anything changed, or failed, since the last sound night."""
        self.seen: Counter[tuple[str, str]] = Counter()
        shop.on_failure = self.report

    def report(self, done: dg.ExecuteInProcessResult) -> None:
        """A tick of `failures` after a failed run of a sensor."""
        self.tick_failures(done.dagster_run, done.get_run_failure_event())

    def tick_failures(self, run: dg.DagsterRun, event: dg.DagsterEvent) -> None:
        failures(dg.build_run_status_sensor_context("failures", event, self.shop.instance, run).for_run_failure())

    def live(self, nights: int) -> None:
        """Days and nights of random kinds, and of each kind; what lasts longer than a day is repaired after it."""
        kinds = [*DAYS, *self.draw.choices(list(DAYS), weights=list(DAYS.values()), k=nights - len(DAYS))]
        self.draw.shuffle(kinds)
        for kind in kinds:
            with self.fault(kind):
                for _ in range(2 if kind == "full disk" else 1):
                    self.day_and_night(kind)

    @contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        shop, draw = self.shop, self.draw
        if kind == "ordinary":
            yield
            return
        self.has_news = True
        if kind == "broken YAML":
            self.break_experiment("lora")
            yield
            shop.write_experiment("lora", retrain=True)
        elif kind == "broken file":
            broken = shop.project.raw_folder("alpaca") / "broken.jsonl"
            broken.write_bytes('[{"instruction": "Hi"'.encode("utf-16"))
            yield
            broken.unlink()
        elif kind == "full disk":
            self.is_disk_full, self.free_gb = True, 0.0
            yield
            self.is_disk_full, self.free_gb = False, 100.0
        elif kind == "other settings":
            shop.change_settings(data={"max_quarantined": draw.choice([0.2, 0.25, 0.3, 0.35])})
            yield
        elif kind == "another experiment":
            path = shop.project.root / "experiments" / "newer.yaml"
            if path.exists():
                path.unlink()
            else:
                shop.write_experiment("newer", retrain=True)
            yield
        else:
            yield

    def day_and_night(self, kind: str) -> None:
        if kind in BUSY or self.draw.random() < 0.6:
            self.rows_arrive(2 * MIN_NEW_ROWS if kind in BUSY else self.draw.randint(6, 24))
        self.morning()
        self.shop.now = (self.shop.now + timedelta(days=1)).replace(hour=0, minute=5)
        self.morning()
        tonight = self.shop.now.replace(hour=2, minute=0)
        if kind == "daemon was late":
            self.shop.now = tonight.replace(hour=8)
        planned = plan_night(self.shop.project)
        requests = self.tick(tonight)
        assert sorted(planned.due) == sorted(request.partition_key or "" for request in requests)
        self.require_that_the_rest_is_reported(planned)
        for request in requests:
            self.execute(request, tonight, kind)
        self.shop.now = max(self.shop.now, tonight) + timedelta(hours=1)
        self.shop.part(project_changes.stranded_runs)
        self.require_sound(kind, planned)
        self.shop.now = self.shop.now.replace(hour=9, minute=0)
        self.record(kind, planned)

    def morning(self) -> None:
        """What the sensors do once they have time: Dagster ticks them every 30 s."""
        for _ in range(2):
            self.shop.tick_files()
        self.shop.settle()
        housekeeping.disk_space(dg.build_sensor_context(self.shop.instance))
        notifying.lasting_failures(dg.build_sensor_context(self.shop.instance))

    def rows_arrive(self, count: int) -> None:
        self.add_rows(count)
        self.pending_rows += count
        self.has_news = True
        oldest = self.shop.project.raw_folder("alpaca") / f"day{self.files - MAX_FILES}.jsonl"
        oldest.unlink(missing_ok=True)

    def tick(self, tonight: datetime) -> list[dg.RunRequest]:
        return list(self.shop.tick("nightly", tonight).run_requests or [])

    def execute(self, request: dg.RunRequest, tonight: datetime, kind: str) -> None:
        """What the daemon and the process of the run do with a request."""
        shop, experiment = self.shop, request.partition_key or ""
        run = shop.create_run(request, tonight)
        if kind == "run created, daemon died":  # after its restart it evaluates the same tick again
            again = {made.partition_key: made for made in self.tick(tonight)}
            assert shop.create_run(again[experiment], tonight).run_id == run.run_id
        elif kind == "two daemons":  # both have evaluated the tick before one of them has created the run
            second = shop.instance.create_run_for_job(shop.defs.resolve_job_def("retraining"), tags=run.tags)
            self.train(second, experiment)
        elif kind == "run started, daemon died":
            lock = run_lock_path(shop.store.root, run.run_id)
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
            self.stand_in(experiment, until=self.draw.choice(["adapter", "scores", "comparison"]))
            self.event(run, DagsterEventType.PIPELINE_START)
            shop.part(project_changes.stranded_runs)
            self.tick_failures(run, self.failure_event(run))
            return
        elif kind in {"failing training", "full disk"}:
            self.tick_failures(run, shop.instance.report_run_failed(run, f"adapter: {kind}"))
            return
        self.train(run, experiment)

    def train(self, run: dg.DagsterRun, experiment: str) -> None:
        self.event(run, DagsterEventType.PIPELINE_START)
        self.stand_in(experiment)
        self.event(run, DagsterEventType.PIPELINE_SUCCESS)

    def stand_in(self, experiment: str, until: str | None = None) -> None:
        self.shop.train(experiment, until)
        if experiment == "qlora" and until in {None, "comparison"}:
            self.pending_rows = 0

    def event(self, run: dg.DagsterRun, kind: DagsterEventType) -> None:
        self.shop.instance.report_dagster_event(DagsterEvent(kind.value, run.job_name), run.run_id)

    def failure_event(self, run: dg.DagsterRun) -> dg.DagsterEvent:
        (entry,) = self.shop.instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
        return entry.get_dagster_event()

    def require_sound(self, kind: str, planned: Night) -> None:
        """What must be true after every night."""
        shop = self.shop
        assert shop.instance.get_runs(dg.RunsFilter(statuses=ACTIVE)) == [], "no run is left"
        for entries, times in self.reports_of_last_day().items():
            # A failed snapshot is tried again at midnight, and once more when other rows arrive on that day.
            allowed = 2 if FULL in entries[2] else 1
            assert times <= allowed, f"reported {times} times on one day: {entries}"
        if not self.has_news:
            assert planned.due == {}, "nothing changed"
        if kind not in SOUND:
            return
        assert planned.untrained == {}, "the night after a fault catches up"
        assert self.pending_rows < 2 * MIN_NEW_ROWS, "so many rows are a reason to train"
        assert plan_night(shop.project).due == {}, "what was trained is not due again"
        self.has_news = False

    def reports_of_last_day(self) -> Counter[tuple[str, str, str]]:
        return Counter(
            (entry["time"][:10], entry["kind"], entry["message"])
            for entry in self.shop.notifications()[-40:]
            if datetime.fromisoformat(entry["time"]) > self.shop.now - timedelta(days=2)
        )

    def record(self, kind: str, planned: Night) -> None:
        """Count for the table of all nights."""
        self.seen["night", kind] += 1
        for outcome, named in (("requested", planned.due), ("not due", planned.not_due), ("missed", planned.untrained)):
            for reason in named.values():
                self.seen[outcome, re.sub(r"\d+", "N", reason)[:70]] += 1

    def table(self) -> str:
        reports = Counter(("notified", entry["kind"]) for entry in self.shop.notifications())
        trainings = self.shop.instance.get_runs(dg.RunsFilter(job_name="retraining"))
        runs = Counter(("run", run.status.value) for run in trainings)
        lines = [*sorted(self.seen.items()), *sorted(reports.items()), *sorted(runs.items())]
        return "\n".join(f"{count:5}  {what[0]:10} {what[1]}" for what, count in lines)


FULL = "The disk is full. Free some space."


@pytest.fixture
def six_weeks(shop: Simulation, monkeypatch: pytest.MonkeyPatch) -> SixWeeks:
    shop.write("second.jsonl", rows(60, seed=99))
    shop.change_settings(retraining={"min_new_rows": MIN_NEW_ROWS})
    shop.write_experiment("lora", retrain=True)
    lived = SixWeeks(shop)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return shop.now

    for module in (notifications, notifying, project_changes, asset_pointers):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(compared_scores, "find_contaminated", lambda *arguments: {})  # stand-ins contain no rows
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(1e12, 0, lived.free_gb * 1e9))
    begin = ArtifactStore.begin

    def begin_if_there_is_space(store: ArtifactStore, *arguments: Any, **more: Any) -> Any:
        if lived.is_disk_full:
            raise UserError(FULL)
        return begin(store, *arguments, **more)

    monkeypatch.setattr(ArtifactStore, "begin", begin_if_there_is_space)
    assert shop.materialize(*(f"raw_{name}" for name in FORMATS), *shop.tables())
    return lived


def test_six_weeks(six_weeks: SixWeeks) -> None:
    try:
        six_weeks.live(NIGHTS)
    finally:
        print(six_weeks.table())  # `pytest -rP` shows it
    assert {kind for outcome, kind in six_weeks.seen if outcome == "night"} == set(DAYS)
