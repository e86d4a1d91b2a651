"""A project that lives through simulated days: real files, snapshots, tables, sensors and schedules over a real Dagster
instance; only what a teacher or a GPU would make is a stand-in of a few bytes."""

import gc
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.storage.tags import RUN_KEY_TAG, SCHEDULED_EXECUTION_TIME_TAG

from ft_pipeline.automation.notifications import LOG
from ft_pipeline.definitions import of_run, of_served_project
from ft_pipeline.defs import automation, project_changes
from ft_pipeline.defs.project_changes import Tick
from ft_pipeline.execution.dagster_names import asset_name
from ft_pipeline.execution.planning import steps_in_order
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, SpecContext, spec_with_inputs
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.tables.formats.registry import FORMATS

FIRST_DAY = datetime(2026, 11, 1, 9, tzinfo=UTC)
STAND_IN = {
    "rows": [{"fingerprint": "evaluation"}],
    "audit": {"checks": {}},
    "params": 1_000_000,
    "verdicts": 0,
    "left_out": [],
    "labels": [],
}
"""The parts of a stand-in's summary that later specs read."""


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Alpaca rows of random words, so that none is near another."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=7)) for _ in range(2000)]

    def sentence() -> str:
        return " ".join(draw.sample(words, 12))

    return [{"instruction": f"{sentence()}?", "input": "", "output": f"{sentence()}."} for _ in range(count)]


class Simulation:
    """One project and its Dagster instance; days pass by calling `next_night`."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.project = Project(root)
        self.store = ArtifactStore(self.project.store)
        self.instance = instance
        self.load()
        self.now = FIRST_DAY
        self.sensor_cursor = ""
        self.files_cursor = ""
        self.settings_cursor = ""
        self.condition_cursor: Any = None
        self.run_keys: set[str] = set()
        """Of the runs that the sensor over the raw folders started: Dagster starts each key once."""
        self.on_failure: Callable[[dg.ExecuteInProcessResult], object] = lambda failed: None

    def load(self) -> None:
        """Load the definitions, as a person does by *Reload definitions*."""
        self.defs = of_served_project()
        self.repository = self.defs.get_repository_def()
        self.graph = {asset_name(key) for key in self.defs.resolve_asset_graph().get_all_asset_keys()}

    def part(self, part: Callable[[Tick], dg.SensorResult], cursor: str | None = None) -> dg.SensorResult:
        """Evaluate a part of the sensor over the project."""
        return part(Tick(self.instance, cursor, self.graph))

    def write(self, name: str, content: list[dict[str, Any]], data_format: str = "alpaca") -> Path:
        path = self.project.raw_folder(data_format) / name
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    def write_experiment(self, name: str, **settings: Any) -> None:
        path = self.project.root / "experiments" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"technique": "lora", **settings}), encoding="utf-8")

    def change_settings(self, **sections: dict[str, Any]) -> None:
        """Replace keys of sections of project.yaml."""
        path = self.project.root / "project.yaml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section, values in sections.items():
            settings[section] = {**settings.get(section, {}), **values}
        path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        self.project = Project(self.project.root)

    def materialize(self, *assets: str) -> bool:
        """Run these assets; returns whether they succeeded."""
        done = dg.materialize(
            list(of_run({*assets}).assets or ()),
            instance=self.instance,
            resources=RESOURCES,
            selection=list(assets),
            tags={"dagster/sensor_name": "tables_follow"},
            raise_on_error=False,
        )
        if not done.success:
            self.on_failure(done)
        return done.success

    def tables(self) -> list[str]:
        return [step.name for step in steps_in_order() if step.stage == "tables" and step.name in self.graph]

    def tick_sensor(self) -> dg.SensorResult:
        """One tick of the sensor over the raw folders."""
        result = self.part(project_changes.raw_files, self.sensor_cursor)
        self.sensor_cursor = result.cursor or ""
        return result

    def tick_settings(self) -> list[str]:
        """One tick of the sensor over the settings of tables; returns the tables that it requests."""
        result = self.part(project_changes.table_settings, self.settings_cursor)
        self.settings_cursor = result.cursor or ""
        requests = result.run_requests or []
        return [key.to_user_string() for request in requests for key in request.asset_selection or []]

    def settle(self) -> list[str]:
        """Run sensor and conditions until nothing more happens; returns the assets they requested, in order."""
        done: list[str] = []
        while True:
            self.tick_sensor()  # a changed folder is read at the second tick
            requests = [made for made in self.tick_sensor().run_requests or [] if made.run_key not in self.run_keys]
            self.run_keys |= {made.run_key for made in requests if made.run_key}
            requested = [key.to_user_string() for request in requests for key in request.asset_selection or []]
            ticked = dg.evaluate_automation_conditions(
                self.defs, self.instance, dg.AssetSelection.groups("tables"), self.now, cursor=self.condition_cursor
            )
            self.condition_cursor = ticked.cursor
            requested += [name for name in STEPS if ticked.get_num_requested(dg.AssetKey(name))]
            requested += [name for name in self.tick_settings() if name not in requested]
            self.now += timedelta(minutes=1)
            if not requested:
                return done
            self.materialize(*requested)
            done += requested

    def next_night(self) -> Any:
        """Settle the day, and evaluate the nightly schedule at its hour; returns its decision."""
        self.settle()
        tonight = (self.now + timedelta(days=1)).replace(hour=2, minute=0)
        decision = self.tick("nightly", tonight)
        self.now = tonight + timedelta(hours=7)
        return decision

    def tick(self, name: str, time: datetime) -> Any:
        """Evaluate a schedule as the daemon does."""
        schedule = self.repository.get_schedule_def(name)
        with dg.build_schedule_context(
            self.instance, scheduled_execution_time=time, repository_def=self.repository
        ) as context:
            return schedule.evaluate_tick(context)

    def create_run(self, request: dg.RunRequest, time: datetime) -> dg.DagsterRun:
        """Create the run of a request as the scheduler does, or find it: before it starts the run, it may die."""
        tags = {**request.tags, SCHEDULED_EXECUTION_TIME_TAG: time.astimezone(UTC).isoformat()}
        if request.run_key:
            tags[RUN_KEY_TAG] = request.run_key
        found = self.instance.get_runs(dg.RunsFilter(tags=tags), limit=1)
        job = self.defs.resolve_job_def("retraining")
        return found[0] if found else self.instance.create_run_for_job(job, tags=tags)

    def tick_files(self) -> dg.SensorResult:
        """One tick of the sensor over the experiments, with what the daemon does with its result."""
        result = self.part(project_changes.experiment_files, self.files_cursor)
        self.files_cursor = result.cursor or ""
        for request in result.dynamic_partitions_requests or []:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        return result

    def notifications(self) -> list[dict[str, Any]]:
        """The entries of the log, oldest first."""
        path = self.project.store / LOG
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @contextmanager
    def run_under_way(self, experiment: str) -> Iterator[None]:
        """Inside the block, a retraining is in progress."""
        job = self.defs.resolve_job_def("retraining")
        tags = {"dagster/partition": experiment}
        run = self.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
        yield
        self.instance.report_run_failed(run)

    def first_run(self) -> None:
        """Build the tables of the graph and train `qlora`, as a person's first run does."""
        assert self.settle() == [], "nothing runs before the first run"
        assert self.materialize(*self.graph.intersection(f"raw_{name}" for name in FORMATS), *self.tables())
        self.train("qlora")
        self.settle()

    def train(self, experiment: str, until: str | None = None) -> None:
        """Write what a retraining leaves in the store: a stand-in for each of its steps before `until`."""
        for step in steps_in_order():
            if step.name == until:
                return
            if step.stage in automation.RETRAINED_STAGES:
                self._stand_in(step.name, experiment if step.per_experiment else None)

    def _stand_in(self, asset: str, experiment: str | None) -> None:
        spec = spec_with_inputs(STEPS[asset], SpecContext(self.project, self.store, experiment), self._find_or_commit)
        AssetPointers(self.store.root).write(asset, experiment, self._find_or_commit(spec))

    def _find_or_commit(self, spec: Any) -> Any:
        artifact = self.store.find(spec)
        if artifact is None:
            draft = self.store.begin(spec)
            (draft.out / "content.txt").write_text(spec.hash, encoding="utf-8")
            artifact = self.store.commit(draft, STAND_IN)
        return artifact


@contextmanager
def simulated(root: Path, folder: Path, min_new_rows: int) -> Iterator[Simulation]:
    """Simulate a project that has 60 raw rows, and of whose experiments only `qlora` is retrained automatically.

    folder: for the Dagster instance. min_new_rows: the setting of the project.
    """
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["retraining"] = {"min_new_rows": min_new_rows}
    (root / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    gc.collect()  # an earlier test's instance, if collected later, would remove what this one sets
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        simulation = Simulation(root, instance)
        for path in (root / "experiments").glob("*.yaml"):
            simulation.write_experiment(path.stem, retrain=path.stem == "qlora")
        simulation.write("first.jsonl", rows(60, seed=1))
        yield simulation
