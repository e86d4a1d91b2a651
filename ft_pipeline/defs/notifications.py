"""Sensors that report failed runs, failed checks and a new champion to the webhook and to the log."""

from datetime import UTC, datetime

import dagster as dg

from ft_pipeline.automation.lasting_failures import report_lasting_failures
from ft_pipeline.automation.notifications import Notification, notify
from ft_pipeline.automation.run_failures import describe_failure
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.defs.sensors import POLL_SECONDS, about, sensor_of
from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import concerns_project, in_its_project, prefixed
from ft_pipeline.project import Project
from ft_pipeline.release.champion import history

HOUR_SECONDS = 3600
MAX_PER_TICK = 5
"""Maximum notifications per tick, as Dagster allows for `failures`. The next tick sends the following ones."""


def definitions() -> dg.Definitions:
    """Return the sensors."""
    watch_failures = dg.run_failure_sensor(
        name=prefixed("failures"),
        description=about(failures),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=POLL_SECONDS,
    )
    return dg.Definitions(
        sensors=[
            watch_failures(in_its_project(failures)),
            sensor_of(lasting_failures, HOUR_SECONDS),
            sensor_of(champion_changes),
        ]
    )


def failures(context: dg.RunFailureSensorContext) -> None:
    """Reports every failed run, with the check that stopped it or the error."""
    if not concerns_project(context.dagster_run):
        return
    outcome = notify(Project.find(), describe_failure(context.instance, context.dagster_run, context.failure_event))
    context.log.info(f"webhook: {outcome}")


def lasting_failures(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Reports each day what failed in a run that a sensor started, until it succeeds."""
    try:
        outcomes = report_lasting_failures(Project.find(), context.instance, datetime.now(UTC))
    except UserError as error:
        return dg.SkipReason(str(error))
    return dg.SkipReason(f"webhook: {'; '.join(outcomes)}" if outcomes else "no failure lasts longer than a day")


def champion_changes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Reports every new champion, whether a run, `ft promote` or `ft rollback` changed it."""
    try:
        project = Project.find()
        records = history(project.store)
    except UserError as error:
        return dg.SkipReason(str(error))
    newest = records[-1].sequence if records else 0
    last_reported = int(context.cursor) if context.cursor else newest
    new_records = [record for record in records if record.sequence > last_reported][:MAX_PER_TICK]
    outcomes = [notify(project, _champion_notification(record)) for record in new_records]
    skip_reason = f"webhook: {'; '.join(outcomes)}" if outcomes else "the champion has not changed"
    return dg.SensorResult(skip_reason=skip_reason, cursor=str(new_records[-1].sequence if new_records else newest))


def _champion_notification(record: ChampionRecord) -> Notification:
    replaced = f", replacing {record.previous} (record {record.previous_sequence})" if record.previous else ""
    return Notification("champion_changed", f"{record.name} (record {record.sequence}){replaced}. {record.reason}")
