"""What a failed run failed of, in one line: the gate that stopped it, or the first step's error."""

import dagster as dg

from ft_pipeline.automation.notifications import Notification


def describe_failure(instance: dg.DagsterInstance, run: dg.DagsterRun, ended: dg.DagsterEvent) -> Notification:
    """The notification of a failed run. ended: the event that says that it failed."""
    partition = run.tags.get("dagster/partition")
    where = f" [{partition}]" if partition else ""
    gates = _failed_gates(instance, run.run_id)
    if gates:
        return Notification("gate_failed", "; ".join(f"{asset}{where}: {why}" for asset, why in gates), run.run_id)
    step = _first_failed_step(instance, run.run_id)
    message = f"{step[0]}{where}: {step[1]}" if step else f"{run.job_name}{where}: {ended.message}"
    return Notification("run_failed", message, run.run_id)


def _failed_gates(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    """(asset, check and its reason) of the blocking checks that failed."""
    found = []
    for record in _events(instance, run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        check = record.asset_check_evaluation_data
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            message = check.metadata.get("message")
            why = f"{check.check_name}: {message.value}" if message else check.check_name
            found.append((check.asset_key.to_user_string(), why))
    return found


def _first_failed_step(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str] | None:
    for event in _events(instance, run_id, dg.DagsterEventType.STEP_FAILURE):
        data = event.step_failure_data
        said = data.user_failure_data.description if data.user_failure_data else None
        error = data.error
        while error is not None and error.cause is not None:
            error = error.cause
        last_line = error.message.strip().splitlines()[-1] if error and error.message.strip() else "failed"
        return event.step_key or "", said or last_line
    return None


def _events(instance: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
    entries = instance.all_logs(run_id, of_type=kind)
    return [entry.dagster_event for entry in entries if entry.dagster_event]
