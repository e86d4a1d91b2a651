"""Sensors that keep an installation going for years: old runs are removed, and a full disk is announced."""

import shutil
from datetime import UTC, datetime, timedelta

import dagster as dg

from ft_pipeline import features
from ft_pipeline.automation.notifications import Notification, notify_daily
from ft_pipeline.defs import automation
from ft_pipeline.defs.sensors import sensor_of
from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import prefixed
from ft_pipeline.execution.local_runs import EVERYTHING
from ft_pipeline.execution.run_retention import purge_runs
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS

CHECK_SECONDS = 600


def definitions() -> dg.Definitions:
    """Return the sensors."""
    return dg.Definitions(sensors=[sensor_of(old_runs, CHECK_SECONDS), sensor_of(disk_space, CHECK_SECONDS)])


def old_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Removes finished runs that are older than `retention.run_days`, except those that made what is current."""
    try:
        days = Project.find().settings.retention.run_days
    except UserError as error:
        return dg.SkipReason(str(error))
    if days is None:
        return dg.SkipReason("retention.run_days is null: all runs are kept")
    result = purge_runs(
        context.instance,
        datetime.now(UTC) - timedelta(days=days),
        assets={*STEPS, *features.assets()},
        jobs={prefixed(automation.RETRAINING), prefixed(EVERYTHING)},
        cursor=context.cursor or "",
    )
    skip_reason = f"removed {len(result.removed)} runs" if result.removed else "no run to remove"
    return dg.SensorResult(skip_reason=skip_reason, cursor=result.cursor)


def disk_space(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Reports each day that less than `retention.warn_free_gb` is free for the store or for Dagster's history."""
    try:
        project = Project.find()
        limit = project.settings.retention.warn_free_gb
    except UserError as error:
        return dg.SkipReason(str(error))
    outcomes = []
    for path in (project.store, project.dagster_home):
        if path.exists() and shutil.disk_usage(path).free < limit * 1e9:
            name = path.relative_to(project.root)
            message = f"less than {limit:g} GB are free for {name}. Free some space; `ft gc` removes old artifacts."
            outcomes.append(notify_daily(project, Notification("disk_low", message, subject=str(name))))
    return dg.SkipReason(f"webhook: {'; '.join(outcomes)}" if outcomes else "there is enough space")
