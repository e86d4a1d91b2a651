"""Automatic runs: snapshots and tables follow the raw files; training runs at night if it is due.

Paid or heavy work (the teacher, training, evaluation) runs only in a retraining, in the weekly run, which is off by
default, or in a run that a user starts.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from ft_pipeline.automation.raw_changes import find_raw_changes
from ft_pipeline.automation.retraining import decide_retraining, experiments_to_watch
from ft_pipeline.errors import UserError
from ft_pipeline.execution.device_pool import set_default_limit
from ft_pipeline.execution.orphaned_runs import end_orphaned_runs
from ft_pipeline.project import Project
from ft_pipeline.settings.automation import RetrainingSettings

RETRAINED_STAGES = ("distillation", "training", "evaluation", "release")
"""Stages that `nightly` runs. The others follow the raw files."""
POLL_SECONDS = 20
ACTIVE_STATUSES = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

retraining_job = dg.define_asset_job(
    "retraining",
    selection=dg.AssetSelection.groups(*RETRAINED_STAGES),
    description="Builds everything from the current tables to the champion, for one experiment.",
)
everything_job = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets("inbox"),
    description="Builds everything from the raw files to the champion, for one experiment.",
)

tables_follow = dg.AutomationConditionSensorDefinition(
    "tables_follow",
    target=dg.AssetSelection.groups("tables"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=POLL_SECONDS,
    description="Rebuilds the tables whose snapshots (or code) changed.",
)


@dg.sensor(
    target=dg.AssetSelection.groups("sources"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=POLL_SECONDS,
)
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
    request = dg.RunRequest(run_key=key, asset_selection=[dg.AssetKey(asset) for asset in changes.changed])
    return dg.SensorResult([request], cursor=cursor)


@dg.sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=POLL_SECONDS)
def stranded_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Ends runs whose process died (power cut, kill −9); run again to resume. Sets the default limit of the pool."""
    set_default_limit(context.instance)
    try:
        ended = end_orphaned_runs(context.instance, Project.find().store)
    except UserError as error:
        return dg.SkipReason(str(error))
    return dg.SkipReason(f"ended {', '.join(ended)}" if ended else "no orphaned runs")


def _retraining_settings() -> RetrainingSettings:
    """The settings in project.yaml, or the defaults if it is invalid: the graph must load, and every run reports it."""
    try:
        return Project.find().settings.retraining
    except UserError:
        return RetrainingSettings()


RETRAINING = _retraining_settings()


@dg.schedule(
    job=retraining_job,
    cron_schedule=RETRAINING.schedule,
    execution_timezone=RETRAINING.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def nightly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Retrains the experiments with `retrain: true`, and the champion's, if their data or settings changed."""
    try:
        decisions = [decide_retraining(Project.find(), name) for name in experiments_to_watch(Project.find())]
    except UserError as error:
        yield dg.SkipReason(str(error))
        return
    skip_reasons = []
    for decision in decisions:
        if not decision.due:
            skip_reasons.append(f"{decision.experiment}: {decision.reason}")
        elif _is_under_way(context.instance, decision.experiment):
            skip_reasons.append(f"{decision.experiment}: a run is already under way")
        else:
            yield dg.RunRequest(partition_key=decision.experiment, tags={"ft/reason": decision.reason})
    if len(skip_reasons) == len(decisions):
        yield dg.SkipReason(
            "; ".join(skip_reasons) or "no experiment sets `retrain: true`, and there is no champion yet"
        )


def _is_under_way(instance: dg.DagsterInstance, experiment: str) -> bool:
    """Whether a run of the experiment is queued or has not ended."""
    filters = dg.RunsFilter(statuses=ACTIVE_STATUSES, tags={"dagster/partition": experiment})
    return bool(instance.get_runs(filters, limit=1))


@dg.schedule(job=everything_job, cron_schedule="0 4 * * 0", execution_timezone=RETRAINING.timezone)
def weekly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
    """Runs all assets of every experiment each Sunday, due or not, and reuses what the store has. Off by default."""
    return [dg.RunRequest(partition_key=name) for name in Project.find().experiment_names()]
