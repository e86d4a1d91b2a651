"""Automatic runs: snapshots and tables follow the raw files; training runs at night if it is due.

Paid or heavy work (the teacher, training, evaluation) runs only in a retraining, in the weekly run, which is off by
default, or in a run that a user starts.
"""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import SCHEDULE_NAME_TAG, SCHEDULED_EXECUTION_TIME_TAG

from ft_pipeline.automation.nights import Night, decide_tick, plan_night, plan_weekly
from ft_pipeline.automation.raw_changes import find_raw_changes
from ft_pipeline.automation.table_changes import find_table_changes
from ft_pipeline.defs.sensors import POLL_SECONDS, about, sensor_of
from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import asset_keys, in_its_project, prefixed, project_tag
from ft_pipeline.execution.device_pool import set_default_limit
from ft_pipeline.execution.local_runs import EVERYTHING
from ft_pipeline.execution.orphaned_runs import end_orphaned_runs
from ft_pipeline.execution.partitions import add_partitions, experiments, experiments_under_way, find_partition_changes
from ft_pipeline.project import Project
from ft_pipeline.settings.automation import RetrainingSettings
from ft_pipeline.step import STEPS

RETRAINED_STAGES = ("distillation", "training", "evaluation", "release")
"""Stages that `nightly` runs. The others follow the raw files."""
RETRAINING = "retraining"
"""The name of the job of `nightly`, without the project's prefix."""


def definitions() -> dg.Definitions:
    """Return the jobs, and what starts them. The same steps of another project in the code location are not meant."""
    retraining, everything = _job(RETRAINING, RETRAINED_STAGES), _job(EVERYTHING)
    sources, tables, timezone = _of_stages("sources"), _of_stages("tables"), _retraining_settings().timezone
    return dg.Definitions(
        jobs=[retraining, everything],
        schedules=[
            schedule_of(nightly, retraining, _retraining_settings().schedule, timezone, is_on=True),
            schedule_of(weekly, everything, "0 4 * * 0", timezone),
        ],
        sensors=[
            dg.AutomationConditionSensorDefinition(
                prefixed("tables_follow"),
                target=tables,
                default_status=dg.DefaultSensorStatus.RUNNING,
                minimum_interval_seconds=POLL_SECONDS,
                description="Rebuilds the tables whose snapshots (or code) changed.",
            ),
            sensor_of(raw_files, target=sources),
            sensor_of(table_settings, target=tables),
            sensor_of(stranded_runs),
            sensor_of(experiment_files),
        ],
    )


def _of_stages(*stages: str) -> dg.AssetSelection:
    """Return the assets of these stages; without stages, of all."""
    names = [step.name for step in STEPS.values() if step.stage in stages or not stages]
    return dg.AssetSelection.assets(*asset_keys(names))


def _job(name: str, stages: Sequence[str] = ()) -> UnresolvedAssetJobDefinition:
    start = "the current tables" if stages else "the raw files"
    return dg.define_asset_job(
        prefixed(name),
        selection=_of_stages(*stages),
        description=f"Builds everything from {start} to the champion, for one experiment.",
        tags=project_tag(),
    )


def schedule_of(
    function: Callable[[dg.ScheduleEvaluationContext], Any],
    job: UnresolvedAssetJobDefinition,
    cron: str,
    timezone: str,
    *,
    is_on: bool = False,
) -> dg.ScheduleDefinition:
    """Return the schedule of a function."""
    status = dg.DefaultScheduleStatus.RUNNING if is_on else dg.DefaultScheduleStatus.STOPPED
    make = dg.schedule(
        name=prefixed(function.__name__),
        description=about(function),
        job=job,
        cron_schedule=cron,
        execution_timezone=timezone,
        default_status=status,
    )
    return make(in_its_project(function))


def raw_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Snapshots the folders of data/raw whose content changed. A touched file with the same bytes changes nothing."""
    try:
        changes = find_raw_changes(Project.find(), json.loads(context.cursor or "{}"))
    except UserError as error:
        return dg.SkipReason(str(error))
    cursor = json.dumps(changes.stamps | changes.settled)
    if not changes.changed:
        return dg.SensorResult(skip_reason="; ".join(changes.notes) or "no file changed", cursor=cursor)
    today = datetime.now(UTC).date().isoformat()  # a failed snapshot is retried the next day
    key = f"{'; '.join(changes.changed.values())} on {today}"
    request = dg.RunRequest(run_key=key, asset_selection=asset_keys(changes.changed))
    return dg.SensorResult([request], cursor=cursor)


def table_settings(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Rebuilds the tables whose settings or library versions changed since they were built."""
    try:
        changes = find_table_changes(Project.find(), context.cursor, datetime.now(UTC))
    except UserError as error:
        return dg.SkipReason(str(error))
    if not changes.tables:
        return dg.SensorResult(skip_reason="; ".join(changes.notes) or "no setting changed", cursor=changes.cursor)
    request = dg.RunRequest(run_key=changes.key, asset_selection=asset_keys(changes.tables))
    return dg.SensorResult([request], cursor=changes.cursor)


def stranded_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Ends runs whose process died (power cut, kill −9); run again to resume. Sets the default limit of the pool."""
    set_default_limit(context.instance)
    try:
        ended = end_orphaned_runs(context.instance, Project.find().store)
    except UserError as error:
        return dg.SkipReason(str(error))
    return dg.SkipReason(f"ended {', '.join(ended)}" if ended else "no orphaned runs")


def experiment_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Keeps the partitions in step with experiments/*.yaml. The history of a removed experiment stays visible."""
    try:
        changes = find_partition_changes(context.instance, Project.find())
    except UserError as error:
        return dg.SkipReason(str(error))
    # An editor or git may replace a file by removing it first: a key is removed if it is gone at two ticks.
    gone = [key for key in changes.gone if key in json.loads(context.cursor or "[]")]
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
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


def _retraining_settings() -> RetrainingSettings:
    """The settings in project.yaml, or the defaults if it is invalid: the graph must load, and every run reports it."""
    try:
        return Project.find().settings.retraining
    except UserError:
        return RetrainingSettings()


def nightly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    """Retrains the experiments with `retrain: true`, and the champion's, if their data or settings changed."""
    empty = "no experiment sets `retrain: true`, and there is no champion yet"
    return _tick(context, "nightly", plan_night, empty)


def weekly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    """Runs all assets of every experiment each Sunday, due or not, and reuses what the store has. Off by default."""
    return _tick(context, "weekly", plan_weekly, "there is no experiment")


def _tick(
    context: dg.ScheduleEvaluationContext, schedule: str, plan: Callable[[Project], Night], empty: str
) -> list[dg.RunRequest] | dg.SkipReason:
    """Request a run for each experiment that is due. empty: the reason if there is no experiment to decide on."""
    try:
        project = Project.find()
    except UserError as error:
        return dg.SkipReason(str(error))
    now = context.scheduled_execution_time
    # The scheduler evaluates a tick again if the daemon died in it. A run that this tick has created is requested
    # again: its key makes the scheduler find the run, and start it if that did not happen.
    this_tick = {SCHEDULE_NAME_TAG: prefixed(schedule), SCHEDULED_EXECUTION_TIME_TAG: now.astimezone(UTC).isoformat()}
    under_way = experiments_under_way(context.instance, except_with=this_tick)
    night = decide_tick(project, schedule, plan, under_way, now)
    if not night.due:
        return dg.SkipReason(night.skipped() or empty)
    if night.skipped():
        context.log.info(f"skipped: {night.skipped()}")
    # A YAML may be newer than the last tick of `experiment_files`. One unknown key would stop all runs of this tick.
    add_partitions(context.instance, night.due)
    return [
        dg.RunRequest(run_key=f"{name} {now.isoformat()}", partition_key=name, tags={"ft/reason": reason})
        for name, reason in night.due.items()
    ]
