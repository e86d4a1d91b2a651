"""Automatic runs: snapshots and tables follow the raw files; training runs at night if it is due.

Paid or heavy work (the teacher, training, evaluation) runs only in a retraining, or in a run that a person started.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from ft_pipeline.automation.raw_changes import find_raw_changes
from ft_pipeline.automation.retraining import decide_retraining, experiments_to_watch
from ft_pipeline.errors import UserError
from ft_pipeline.execution.orphaned_runs import end_orphaned_runs
from ft_pipeline.project import Project
from ft_pipeline.settings.project import RetrainingSettings

RETRAINED = ("distillation", "training", "evaluation", "release")
LOOK_SECONDS = 20
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

retraining_job = dg.define_asset_job(
    "retraining",
    selection=dg.AssetSelection.groups(*RETRAINED),
    description="Builds everything from the current tables to the champion, for one experiment.",
)
everything_job = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all(),
    description="Builds everything from the raw files to the champion, for one experiment.",
)

tables_follow = dg.AutomationConditionSensorDefinition(
    "tables_follow",
    target=dg.AssetSelection.groups("tables"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=LOOK_SECONDS,
    description="Rebuilds the tables whose snapshots (or code) changed.",
)


@dg.sensor(
    target=dg.AssetSelection.groups("sources"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=LOOK_SECONDS,
)
def raw_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Snapshots the folders of data/raw whose content changed. A touched file with the same bytes changes nothing."""
    try:
        changes = find_raw_changes(Project.find(), json.loads(context.cursor or "{}"))
    except UserError as error:
        return dg.SkipReason(str(error))
    cursor = json.dumps(changes.stamps)
    if not changes.changed:
        return dg.SensorResult(skip_reason="; ".join(changes.notes) or "no file changed", cursor=cursor)
    today = datetime.now(UTC).date().isoformat()  # a failed snapshot is retried the next day
    key = f"{'; '.join(changes.changed.values())} on {today}"
    request = dg.RunRequest(run_key=key, asset_selection=[dg.AssetKey(asset) for asset in changes.changed])
    return dg.SensorResult([request], cursor=cursor)


@dg.sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=LOOK_SECONDS)
def stranded_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Ends runs whose process died (power cut, kill −9), and releases their slots in the pool. Run again to resume."""
    try:
        ended = end_orphaned_runs(context.instance, Project.find().store)
    except UserError as error:
        return dg.SkipReason(str(error))
    return dg.SkipReason(f"ended {', '.join(ended)}" if ended else "no orphaned runs")


def _settings() -> RetrainingSettings:
    """The settings in project.yaml. If it is invalid, the defaults: every run reports it, but the graph must load."""
    try:
        return Project.find().settings.retraining
    except UserError:
        return RetrainingSettings()


@dg.schedule(
    job=retraining_job,
    cron_schedule=_settings().schedule,
    execution_timezone=_settings().timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def nightly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Retrains the experiments with `retrain: true`, and the champion's, if their data or settings changed."""
    skipped = []
    try:
        decisions = [decide_retraining(Project.find(), name) for name in experiments_to_watch(Project.find())]
    except UserError as error:
        yield dg.SkipReason(str(error))
        return
    for decision in decisions:
        busy = decision.due and _under_way(context.instance, decision.experiment)
        if decision.due and not busy:
            yield dg.RunRequest(partition_key=decision.experiment, tags={"ft/reason": decision.reason})
        else:
            skipped.append(f"{decision.experiment}: {'a run is already under way' if busy else decision.reason}")
    if len(skipped) == len(decisions):
        yield dg.SkipReason("; ".join(skipped) or "no experiment sets `retrain: true`, and there is no champion yet")


def _under_way(instance: dg.DagsterInstance, experiment: str) -> bool:
    filters = dg.RunsFilter(statuses=UNDER_WAY, tags={"dagster/partition": experiment})
    return bool(instance.get_runs(filters, limit=1))


@dg.schedule(job=everything_job, cron_schedule="0 4 * * 0", execution_timezone=_settings().timezone)
def weekly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """Runs all assets of every experiment each Sunday, due or not, and reuses what the store has. Off by default."""
    return [dg.RunRequest(partition_key=name) for name in Project.find().experiment_names()]
