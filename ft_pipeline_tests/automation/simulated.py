"""A project that lives through simulated days: real files, snapshots, tables, sensors and schedules over a real Dagster
instance; only what a teacher or a GPU would make is a stand-in of a few bytes."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from ft_pipeline.defs import automation
from ft_pipeline.execution.planning import flow
from ft_pipeline.execution.step import STEPS, SpecContext
from ft_pipeline.execution.step_asset import spec_with_inputs
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers

FIRST_DAY = datetime(2026, 11, 1, 9, tzinfo=UTC)
STAND_IN = {"rows": [{"fingerprint": "evaluation"}], "audit": {"checks": {}}, "params": 1_000_000}
"""What the specs after it read of a stand-in's summary."""


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Alpaca rows of random words, so that none is near another."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=7)) for _ in range(2000)]

    def sentence() -> str:
        return " ".join(draw.sample(words, 12))

    return [{"instruction": f"{sentence()}?", "input": "", "output": f"{sentence()}."} for _ in range(count)]


class Simulation:
    """One project and its Dagster instance; days pass by calling `night`."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        from ft_pipeline.definitions import defs

        self.project = Project(root)
        self.store = ArtifactStore(self.project.store)
        self.instance = instance
        self.defs = defs()
        self.repository = self.defs.get_repository_def()
        self.now = FIRST_DAY
        self.looked = ""
        self.conditions: Any = None

    def write(self, name: str, content: list[dict[str, str]], data_format: str = "alpaca") -> Path:
        path = self.project.raw(data_format) / name
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    def write_experiment(self, name: str, **settings: Any) -> None:
        path = self.project.root / "experiments" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"technique": "lora", **settings}), encoding="utf-8")

    def materialize(self, *assets: str) -> bool:
        """A run of these assets."""
        done = dg.materialize(
            [step.asset for step in STEPS.values()],
            instance=self.instance,
            selection=list(assets),
            raise_on_error=False,
        )
        return done.success

    def tables(self) -> list[str]:
        return [step.name for step in flow() if step.stage == "tables"]

    def look(self) -> dg.SensorResult:
        """One tick of the sensor over the raw folders."""
        found = automation.raw_files(dg.build_sensor_context(self.instance, cursor=self.looked))
        assert isinstance(found, dg.SensorResult)
        self.looked = found.cursor or ""
        return found

    def settle(self) -> list[str]:
        """Let sensor and conditions act until nothing more happens; what they had materialized, in order."""
        done: list[str] = []
        idle = 0
        while idle < 2:  # a changed folder is looked at twice
            requests = self.look().run_requests or []
            asked = [key.to_user_string() for request in requests for key in request.asset_selection or []]
            ticked = dg.evaluate_automation_conditions(
                self.defs, self.instance, dg.AssetSelection.groups("tables"), self.now, cursor=self.conditions
            )
            self.conditions = ticked.cursor
            asked += [name for name in STEPS if ticked.get_num_requested(dg.AssetKey(name))]
            if asked:
                self.materialize(*asked)
            idle = 0 if asked else idle + 1
            done += asked
            self.now += timedelta(minutes=1)
        return done

    def night(self) -> Any:
        """Let the day settle, and ask the nightly schedule at its hour."""
        self.settle()
        tonight = (self.now + timedelta(days=1)).replace(hour=2, minute=0)
        context = dg.build_schedule_context(
            self.instance, scheduled_execution_time=tonight, repository_def=self.repository
        )
        said = automation.nightly.evaluate_tick(context)
        self.now = tonight + timedelta(hours=7)
        return said

    @contextmanager
    def run_under_way(self, experiment: str) -> Iterator[None]:
        """A retraining has been started and has not ended."""
        job = self.defs.resolve_job_def("retraining")
        tags = {"dagster/partition": experiment}
        run = self.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
        yield
        self.instance.report_run_failed(run)

    def train(self, experiment: str, until: str | None = None) -> None:
        """What a retraining leaves in the store: a stand-in for every step of it, up to and without `until`."""
        for step in flow():
            if step.name == until:
                return
            if step.stage in automation.RETRAINED:
                self._stand_in(step.name, experiment if step.per_experiment else None)

    def _stand_in(self, asset: str, experiment: str | None) -> None:
        spec = spec_with_inputs(STEPS[asset], SpecContext(self.project, self.store, experiment), self._made)
        AssetPointers(self.store.root).write(asset, experiment, self._made(spec))

    def _made(self, spec: Any) -> Any:
        found = self.store.find(spec)
        if found is None:
            draft = self.store.begin(spec)
            (draft.out / "content.txt").write_text(spec.hash, encoding="utf-8")
            found = self.store.commit(draft, STAND_IN)
        return found
