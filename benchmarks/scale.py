"""What a project with many experiments and many runs costs before anything is trained.

    python benchmarks/scale.py [--experiments 100] [--runs 5000] [--times 3]

Makes a project in a temporary folder: the worked example's tables, EXPERIMENTS experiments whose steps all have a
stand-in of a few bytes in the store, and a Dagster instance with RUNS runs that materialized them. Then it measures,
each in a new process: loading the definitions, a plan of all experiments, `ft status`, the decision of `nightly`, and
views.sql after one step. Results go to benchmarks/results/scale.json, with the CPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg
import machine
from dagster._core.events import StepMaterializationData
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from sqlalchemy import func, select

from ft_pipeline import scaffold

RESULTS = Path(__file__).parent / "results" / "scale.json"
RUN = "00000000-0000-0000-0000-000000000000"
"""Stands for the id of a run in events that many runs have."""
LIMITS = {"load_definitions": 3.0, "plan": 5.0, "status": 1.0}
"""Seconds."""
MEASURED = {
    "load_definitions": "from ft_pipeline.definitions import defs; defs()",
    "plan": "from ft_pipeline.execution.run import RunRequest, plan_run; plan_run(RunRequest(Project.find()))",
    "views_after_a_step": (
        "from ft_pipeline.store.artifacts import ArtifactStore; from ft_pipeline.store.sql_views import write_views; "
        "write_views(ArtifactStore(Project.find().store))"
    ),
    "status": (
        "import contextlib, sys; from ft_pipeline.cli import main; sys.argv[1:] = ['status', '--json']\n"
        "with contextlib.suppress(SystemExit): main()"
    ),
    "nightly": "from ft_pipeline.automation.nights import plan_night; plan_night(Project.find())",
}
TIMED = """
import json, time
from ft_pipeline.project import Project
started, worked = time.monotonic(), time.process_time()
{imports}
{code}
print(json.dumps([time.monotonic() - started, time.process_time() - worked]))
"""
LOAD = """
from ft_pipeline.execution.run import load_steps
load_steps()
started, worked = time.monotonic(), time.process_time()
"""
"""Run before what is measured, and not measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--project", type=Path, help="use and keep this project; make it if it is not there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.project or Path(folder) / "shop"
        if not root.exists():
            make_project(root, given.experiments, given.runs)
        measured = measure(root, given.times)
    result = {"machine": machine.describe_compute(), "experiments": given.experiments, "runs": given.runs, **measured}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, seconds in measured["seconds"].items():
        limit = f" (limit {LIMITS[name]:g} s)" if name in LIMITS else ""
        print(f"{name:<20} {seconds:8.2f} s, {measured['cpu_seconds'][name]:.2f} s of CPU{limit}")


def make_project(root: Path, experiments: int, runs: int) -> None:
    """Make the project and its history."""
    scaffold.create(root, example=True)
    for path in (root / "experiments").glob("*.yaml"):
        path.unlink()
    for number in range(experiments):
        text = f"technique: lora\nretrain: true\ntraining: {{learning_rate: {1e-4 + number * 1e-6:.6f}}}\n"
        (root / "experiments" / f"e{number:03}.yaml").write_text(text, encoding="utf-8")
    os.environ["FT_PROJECT"], os.environ["DAGSTER_HOME"] = str(root), str(root / "dagster_home")
    from ft_pipeline_tests.automation.simulated import Simulation

    with dg.DagsterInstance.get() as instance:
        shop = Simulation(root, instance)
        from ft_pipeline.execution.partitions import add_partitions
        from ft_pipeline.step import STEPS

        add_partitions(instance, shop.project.experiment_names())
        shop.materialize(*(name for name, step in STEPS.items() if step.stage == "sources"), *shop.tables())
        for name in shop.project.experiment_names():
            shop.train(name)
        add_history(instance, shop, runs)


def add_history(instance: dg.DagsterInstance, shop: Any, runs: int) -> None:
    """Add runs, each with the materializations of one experiment's assets and of the shared ones.

    They are written to the tables of SQLite at once: real runs would take a day. A run has no log of its own.
    """
    from ft_pipeline.store.asset_pointers import AssetPointers

    pointers, names = AssetPointers(shop.store.root).all(), shop.project.experiment_names()
    events = {
        name: [_materialization(pointer) for pointer in pointers if pointer.partition in (None, name)] for name in names
    }
    log = instance.event_log_storage
    rows = {name: [log._event_to_row(event) for event in of_one] for name, of_one in events.items()}
    for number in range(runs):
        name = names[number % len(names)]
        run = dg.DagsterRun("retraining", status=dg.DagsterRunStatus.SUCCESS, tags={"dagster/partition": name})
        instance.run_storage.add_run(run)
        with log.index_transaction() as connection:
            last = connection.execute(select(func.max(SqlEventLogStorageTable.c.id))).scalar() or 0
            connection.execute(
                SqlEventLogStorageTable.insert(),
                [row | {"run_id": run.run_id, "event": row["event"].replace(RUN, run.run_id)} for row in rows[name]],
            )
            ids = list(range(last + 1, last + 1 + len(rows[name])))
            log._store_asset_event_tags(connection, events[name], ids)
            if number + len(names) >= runs:  # the latest one of each asset
                for event, event_id in zip(events[name], ids, strict=True):
                    log._store_asset_event(connection, event._replace(run_id=run.run_id), event_id)


def _materialization(pointer: Any) -> dg.EventLogEntry:
    materialization = dg.AssetMaterialization(
        pointer.asset,
        partition=pointer.partition,
        tags={"dagster/data_version": pointer.fingerprint},
        metadata={"manifest_sha256": pointer.manifest_sha256, "summary": "x" * 1000},
    )
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name="retraining",
        event_specific_data=StepMaterializationData(materialization),
    )
    return dg.EventLogEntry(
        error_info=None, level="debug", user_message="", run_id=RUN, timestamp=time.time(), dagster_event=event
    )


def measure(root: Path, times: int) -> dict[str, Any]:
    """Return the median of wall and of CPU seconds of each. On a machine with other work, only the latter compare."""
    measured = {name: _median(name, code, root, times) for name, code in MEASURED.items()}
    return {
        "seconds": {name: round(wall, 3) for name, (wall, _) in measured.items()},
        "cpu_seconds": {name: round(cpu, 3) for name, (_, cpu) in measured.items()},
    }


def _median(name: str, code: str, root: Path, times: int) -> tuple[float, float]:
    imports = "" if name in ("load_definitions", "status") else LOAD
    command = [sys.executable, "-c", TIMED.format(imports=imports, code=code)]
    environment = {**os.environ, "FT_PROJECT": str(root), "DAGSTER_HOME": str(root / "dagster_home")}
    outputs = [
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        for _ in range(times)
    ]
    walls, cpus = zip(*(json.loads(output.splitlines()[-1]) for output in outputs), strict=True)
    return statistics.median(walls), statistics.median(cpus)


if __name__ == "__main__":
    main()
