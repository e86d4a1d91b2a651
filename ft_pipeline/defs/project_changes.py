"""The sensor that follows the files of a project: raw rows, settings, experiments, and runs whose process died."""

import json
from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from ft_pipeline.automation.raw_changes import find_raw_changes
from ft_pipeline.automation.table_changes import find_table_changes
from ft_pipeline.errors import UserError, first_line
from ft_pipeline.execution.dagster_names import asset_keys
from ft_pipeline.execution.device_pool import set_default_limit
from ft_pipeline.execution.orphaned_runs import end_orphaned_runs
from ft_pipeline.execution.partitions import experiments, find_partition_changes
from ft_pipeline.project import Project

PartitionRequests = list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]


@dataclass(frozen=True)
class Tick:
    """What a part of the sensor reads."""

    instance: dg.DagsterInstance
    cursor: str | None
    """What the part remembered at the last tick."""
    graph: Set[str]
    """The assets of the definitions that are loaded."""


def project_changes(graph: Set[str]) -> Callable[[dg.SensorEvaluationContext], dg.SensorResult]:
    """Return the function of the sensor. graph: the assets of the definitions."""

    def project_changes(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Follows the project: snapshots and tables of changed files and settings, experiments/*.yaml, dead runs."""
        cursors: dict[str, str | None] = json.loads(context.cursor or "{}")
        results = {part.__name__: _result_of(part, context, cursors, graph) for part in PARTS}
        requests = [request for result in results.values() for request in result.run_requests or ()]
        partitions = [request for result in results.values() for request in result.dynamic_partitions_requests or ()]
        reasons = [f"{name}: {_said(result.skip_reason)}" for name, result in results.items() if result.skip_reason]
        return dg.SensorResult(
            requests,
            skip_reason=None if requests else "; ".join(reasons),
            dynamic_partitions_requests=partitions,
            cursor=json.dumps({name: result.cursor for name, result in results.items()}),
        )

    return project_changes


def _result_of(
    part: Callable[[Tick], dg.SensorResult],
    context: dg.SensorEvaluationContext,
    cursors: dict[str, str | None],
    graph: Set[str],
) -> dg.SensorResult:
    """Return what a part found. An error of one part, of any type, is only that one's reason."""
    cursor = cursors.get(part.__name__)
    try:
        return part(Tick(context.instance, cursor, graph))
    except UserError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=cursor)
    except Exception as error:
        context.log.exception(f"{part.__name__} failed")
        return dg.SensorResult(skip_reason=f"failed: {first_line(error)}", cursor=cursor)


def _said(reason: dg.SkipReason | str) -> str:
    return reason if isinstance(reason, str) else reason.skip_message or ""


def stranded_runs(tick: Tick) -> dg.SensorResult:
    """End runs whose process died (power cut, kill −9); run again to resume. Set the default limit of the pool."""
    set_default_limit(tick.instance)
    ended = end_orphaned_runs(tick.instance, Project.find().store)
    return dg.SensorResult(skip_reason=f"ended {', '.join(ended)}" if ended else "no orphaned runs")


def experiment_files(tick: Tick) -> dg.SensorResult:
    """Keep the partitions in step with experiments/*.yaml. The history of a removed experiment stays visible."""
    changes = find_partition_changes(tick.instance, Project.find())
    # An editor or git may replace a file by removing it first: a key is removed if it is gone at two ticks.
    gone = [key for key in changes.gone if key in json.loads(tick.cursor or "[]")]
    requests: PartitionRequests = []
    if changes.new:
        requests.append(experiments().build_add_request(changes.new))
    if gone:
        requests.append(experiments().build_delete_request(gone))
    parts = [f"{verb} {', '.join(keys)}" for verb, keys in (("added", changes.new), ("removed", gone)) if keys]
    return dg.SensorResult(
        skip_reason="; ".join(parts) or "no experiment was added or removed",
        dynamic_partitions_requests=requests,
        cursor=json.dumps([key for key in changes.gone if key not in gone]),
    )


def raw_files(tick: Tick) -> dg.SensorResult:
    """Snapshot the folders of data/raw whose content changed. A touched file with the same bytes changes nothing."""
    changes = find_raw_changes(Project.find(), json.loads(tick.cursor or "{}"))
    cursor = json.dumps(changes.stamps | changes.settled)
    wanted = {key: [asset] for asset, key in changes.changed.items()} | changes.new
    loaded = {key: names for key, names in wanted.items() if tick.graph >= {*names}}
    if not loaded:
        notes = [f"{names[0]} is not in the loaded graph: press Reload definitions" for names in wanted.values()]
        return dg.SensorResult(skip_reason="; ".join([*notes, *changes.notes]) or "no file changed", cursor=cursor)
    requested = dict.fromkeys(name for names in loaded.values() for name in names)
    today = datetime.now(UTC).date().isoformat()  # a failed snapshot is retried the next day
    request = dg.RunRequest(run_key=f"{'; '.join(loaded)} on {today}", asset_selection=asset_keys(requested))
    return dg.SensorResult([request], cursor=cursor)


def table_settings(tick: Tick) -> dg.SensorResult:
    """Rebuild the tables whose settings or library versions changed since they were built."""
    changes = find_table_changes(Project.find(), tick.cursor, datetime.now(UTC), tick.graph)
    if not changes.tables:
        return dg.SensorResult(skip_reason="; ".join(changes.notes) or "no setting changed", cursor=changes.cursor)
    request = dg.RunRequest(run_key=changes.key, asset_selection=asset_keys(changes.tables))
    return dg.SensorResult([request], cursor=changes.cursor)


PARTS: tuple[Callable[[Tick], dg.SensorResult], ...] = (stranded_runs, experiment_files, raw_files, table_settings)
"""What the sensor does at each tick, in this order."""
