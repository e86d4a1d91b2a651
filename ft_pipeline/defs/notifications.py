"""Who is told: failed runs, failed gates, and a new champion, to the webhook and the log of project.yaml."""

import dagster as dg

from ft_pipeline.automation.notifications import Notification, notify
from ft_pipeline.automation.run_failures import describe_failure
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release.champion import ChampionRecord, history

LOOK_SECONDS = 20
AT_ONCE = 5
"""Notifications in one tick, as many as Dagster allows `failures`; the next tick goes on after them."""


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=LOOK_SECONDS)
def failures(context: dg.RunFailureSensorContext) -> None:
    """Tells of every run that failed: with the gate that stopped it, or the error."""
    outcome = notify(Project.find(), describe_failure(context.instance, context.dagster_run, context.failure_event))
    context.log.info(f"webhook: {outcome}")


@dg.sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=LOOK_SECONDS)
def champion_changes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Tells of every new champion, whoever moved it: a run, `ft promote` or `ft rollback`."""
    try:
        project = Project.find()
        records = history(project.store)
    except UserError as error:
        return dg.SkipReason(str(error))
    last = records[-1].sequence if records else 0
    seen = int(context.cursor) if context.cursor else last
    news = [record for record in records if record.sequence > seen][:AT_ONCE]
    told = [notify(project, _news(record)) for record in news]
    why = f"webhook: {'; '.join(told)}" if told else "the champion is the same"
    return dg.SensorResult(skip_reason=why, cursor=str(news[-1].sequence if news else last))


def _news(record: ChampionRecord) -> Notification:
    before = f", in place of {record.previous} (record {record.previous_sequence})" if record.previous else ""
    return Notification("champion_changed", f"{record.name} (record {record.sequence}){before}. {record.reason}")
