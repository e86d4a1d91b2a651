"""Automatic runs: snapshots and tables follow the raw files; training runs at night if it is due.

Paid or heavy work (the teacher, training, evaluation) runs only in a retraining, in the weekly run, which is off by
default, or in a run that a user starts.
"""

from collections.abc import Callable, Collection, Sequence, Set
from datetime import UTC
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import SCHEDULE_NAME_TAG, SCHEDULED_EXECUTION_TIME_TAG

from ft_pipeline.automation.nights import Night, decide_tick, plan_night, plan_weekly
from ft_pipeline.defs.project_changes import project_changes
from ft_pipeline.defs.sensors import POLL_SECONDS, about, sensor_of
from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import asset_keys, in_its_project, prefixed, project_tag
from ft_pipeline.execution.local_runs import EVERYTHING
from ft_pipeline.execution.partitions import add_partitions, experiments_under_way
from ft_pipeline.project import Project
from ft_pipeline.settings.automation import RetrainingSettings
from ft_pipeline.step import STEPS

RETRAINED_STAGES = ("distillation", "training", "evaluation", "release")
"""Stages that `nightly` runs. The others follow the raw files."""
RETRAINING = "retraining"
"""The name of the job of `nightly`, without the project's prefix."""


def definitions(graph: Set[str]) -> dg.Definitions:
    """Return the jobs of a graph, and what starts them. The same steps of another project in the code location are not
    meant."""
    retraining, everything = _job(graph, RETRAINING, RETRAINED_STAGES), _job(graph, EVERYTHING)
    tables, timezone = _of_stages(graph, "tables"), _retraining_settings().timezone
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
            sensor_of(project_changes(graph), target=_of_stages(graph, "sources", "tables")),
        ],
    )


def _of_stages(graph: Collection[str], *stages: str) -> dg.AssetSelection:
    """Return the assets of these stages in a graph; without stages, of all."""
    names = [step.name for step in STEPS.values() if step.name in graph and (step.stage in stages or not stages)]
    return dg.AssetSelection.assets(*asset_keys(names))


def _job(graph: Collection[str], name: str, stages: Sequence[str] = ()) -> UnresolvedAssetJobDefinition:
    start = "the current tables" if stages else "the raw files"
    return dg.define_asset_job(
        prefixed(name),
        selection=_of_stages(graph, *stages),
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
