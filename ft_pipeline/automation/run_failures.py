"""Why a run failed, in one line: the blocking check that stopped it, or the error of the first failed step."""

import dagster as dg

from ft_pipeline.automation.notifications import Notification
from ft_pipeline.execution.dagster_names import asset_name, asset_of_step, experiment_of
from ft_pipeline.execution.run_overview import root_message

JOB = "job "
"""Begins the subject of a run that failed outside its steps."""


def describe_failure(instance: dg.DagsterInstance, run: dg.DagsterRun, failure_event: dg.DagsterEvent) -> Notification:
    """Return the notification of a failed run. failure_event: the event that reports the failure."""
    partition = experiment_of(run)
    suffix = f" [{partition}]" if partition else ""
    checks = _failed_blocking_checks(instance, run.run_id)
    if checks:
        message = "; ".join(f"{asset}{suffix}: {reason}" for asset, reason in checks)
        return Notification("gate_failed", message, run.run_id, _subject(run, checks[0][0], partition))
    if (failed := _first_failed_step(instance, run.run_id)) is not None:
        subject = _subject(run, failed[0], partition)
        return Notification("run_failed", f"{failed[0]}{suffix}: {failed[1]}", run.run_id, subject)
    message = f"{run.job_name}{suffix}: {failure_event.message}"
    return Notification("run_failed", message, run.run_id, _subject(run, f"{JOB}{run.job_name}", partition))


def _subject(run: dg.DagsterRun, name: str, partition: str | None) -> str | None:
    """The subject of a failure that is reported again while it lasts: that of a run which a sensor started.

    Schedules start a failed training again, and whoever starts a run by hand sees how it ends.
    """
    if "dagster/sensor_name" not in run.tags:
        return None
    return f"{name}@{partition}" if partition else name


def _failed_blocking_checks(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    """(asset, `check: message`) of the blocking checks that failed."""
    failed = []
    for record in _events_of_type(instance, run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        check = record.asset_check_evaluation_data
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            message = check.metadata.get("message")
            reason = f"{check.check_name}: {message.value}" if message else check.check_name
            failed.append((asset_name(check.asset_key), reason))
    return failed


def _first_failed_step(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str] | None:
    """(step, its description of the failure, or the last line of the root cause); None if no step failed."""
    for event in _events_of_type(instance, run_id, dg.DagsterEventType.STEP_FAILURE):
        data = event.step_failure_data
        description = data.user_failure_data.description if data.user_failure_data else None
        last_line = (root_message(data.error) or "failed").splitlines()[-1]
        return asset_of_step(event.step_key or ""), description or last_line
    return None


def _events_of_type(instance: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
    entries = instance.all_logs(run_id, of_type=kind)
    return [entry.dagster_event for entry in entries if entry.dagster_event]
