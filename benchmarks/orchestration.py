"""What the orchestration costs: everything but the steps' own work, as a share of a whole run's wall time.

    python benchmarks/orchestration.py [--project DIR] [--experiment qlora] [--times 5]

Reads the last run of DIR that built everything for the experiment (`ft run --experiment NAME` in a project whose
data/store is empty); without --project it makes the worked example in a temporary folder and runs that first, some
quarter of an hour. A step's work is what its worker did, imports of torch included, or its own function where it has no
worker. All else is orchestration: starting processes, Dagster's events, hashing and moving files into the store, gates,
pictures, and between the steps. Results go to benchmarks/results/orchestration.json.
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

from ft_pipeline import scaffold
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers

RESULTS = Path(__file__).parent / "results" / "orchestration.json"
LOAD = "from ft_pipeline.definitions import defs; defs()"
LOAD_LIMIT, SHARE_LIMIT = 3.0, 0.15
"""Seconds; share of the wall time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path)
    parser.add_argument("--experiment", default="qlora")
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    if given.project:
        measured = measure(given.project.resolve(), given.experiment, given.times)
    else:
        with tempfile.TemporaryDirectory() as folder:
            root = scaffold.create(Path(folder) / "demo", example=True)
            subprocess.run([_ft(), "run", "--experiment", given.experiment], env=_environment(root), check=True)
            measured = measure(root, given.experiment, given.times)
    RESULTS.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(_table(measured))


def measure(root: Path, experiment: str, times: int) -> dict[str, Any]:
    """Of the last run that built all of it: wall time, work, and what is left, in seconds, by step."""
    planning = _median([_ft(), "run", "--experiment", experiment, "--plan", "--json"], root, times)
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        run, steps = _last_whole_run(instance, root, experiment)
    wall = run["seconds"] + planning
    work = sum(step["work"] for step in steps)
    return {
        "machine": machine.describe_compute(),
        "experiment": experiment,
        "load_definitions_seconds": _median([sys.executable, "-c", LOAD], root, times),
        "start_and_plan_seconds": planning,
        "wall_seconds": wall,
        "work_seconds": work,
        "orchestration_seconds": wall - work,
        "orchestration_share": (wall - work) / wall,
        "between_steps_seconds": run["seconds"] - sum(step["seconds"] for step in steps),
        "steps": steps,
    }


def _last_whole_run(instance: dg.DagsterInstance, root: Path, experiment: str) -> tuple[dict[str, Any], list[dict]]:
    """The newest run of the experiment that built each of its steps: (its seconds, its steps)."""
    built = _work_by_run(root, experiment)
    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], tags={"dagster/partition": experiment})
    for record in instance.get_run_records(filters):
        run_id = record.dagster_run.run_id
        stats = instance.get_run_step_stats(run_id)
        work = built.get(run_id, {})
        if len(stats) > 20 and {"adapter", "scores"} <= set(work):
            steps = [
                {
                    "asset": each.step_key,
                    "seconds": each.end_time - each.start_time,
                    "work": work.get(each.step_key, 0.0),
                }
                for each in stats
                if each.start_time and each.end_time
            ]
            ended = record.end_time or 0.0
            return {"seconds": ended - record.create_timestamp.timestamp()}, steps
    raise SystemExit(f"no run of {root} built everything for {experiment}; run it in a project whose store is empty")


def _work_by_run(root: Path, experiment: str) -> dict[str, dict[str, float]]:
    """{run id: {asset: seconds of work}} by the manifests of what is materialized now."""
    store = ArtifactStore(root / "data" / "store")
    found: dict[str, dict[str, float]] = {}
    for pointer in AssetPointers(store.root).all():
        if pointer.partition not in (None, experiment):
            continue
        run = store.require(pointer.kind, pointer.fingerprint).manifest["run"]
        found.setdefault(run["run_id"], {})[pointer.asset] = run.get("worker_seconds", run["seconds"])
    return found


def _median(command: list[str], root: Path, times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.monotonic()
        subprocess.run(
            command, env=_environment(root), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "FT_PROJECT": str(root), "DAGSTER_HOME": str(root / "dagster_home"), "HF_HUB_OFFLINE": "1"}


def _ft() -> str:
    return str(Path(sys.executable).parent / "ft")


def _table(measured: dict[str, Any]) -> str:
    lines = [(step["asset"], step["seconds"], step["work"]) for step in measured["steps"]]
    lines += [
        (name, measured[f"{name.replace(' ', '_')}_seconds"], 0.0) for name in ("between steps", "start and plan")
    ]
    lines.append(("all", measured["wall_seconds"], measured["work_seconds"]))
    rows = [f"{'step':<18} {'seconds':>9} {'work':>9} {'rest':>7}"]
    rows += [f"{name:<18} {seconds:9.2f} {work:9.2f} {seconds - work:7.2f}" for name, seconds, work in lines]
    rows += [
        f"orchestration: {measured['orchestration_share']:.1%} of the wall time (limit {SHARE_LIMIT:.0%})",
        f"definitions load in {measured['load_definitions_seconds']:.2f} s (limit {LOAD_LIMIT:g} s)",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
