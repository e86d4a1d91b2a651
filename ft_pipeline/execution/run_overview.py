"""What runs, what waits and for what, what failed last: from Dagster's database and the locks, without definitions."""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import psutil
from dagster._core.scheduler.instigation import InstigatorTick, InstigatorType, TickStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._utils.error import SerializableErrorInfo

from ft_pipeline.execution.dagster_names import asset_of_step, experiment_of, is_own_run, prefixed, terminal_user
from ft_pipeline.execution.workers.device_leases import device_locks, lock_folder
from ft_pipeline.execution.workers.device_line import DeviceUse, device_uses, is_held

STATUSES_WITH_PROCESS = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
"""Statuses of runs that a process executes, unless it died."""
WITHOUT_PROCESS = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
ACTIVE = [*WITHOUT_PROCESS, *STATUSES_WITH_PROCESS]
"""Statuses of runs that have not ended."""
MAX_RUNS = 50
"""Number of runs that are shown at most."""
FAILURES = 5
"""Number of failed runs that are shown."""
SCHEDULES = ("nightly", "weekly")
"""Names of the schedules, without the project's prefix."""
FIRST_STEP_SECONDS = 60.0
"""Time after the start of a run in which its process begins the first step; usually it takes less than a second."""
DAEMON_SECONDS = 120.0
"""Age of the daemon's last heartbeat after which it counts as stopped."""

FAILED_CHECKS = re.compile(r"blocking asset checks? failed with ERROR severity:$")
"""How Dagster begins the message of a step whose blocking checks failed."""

RunState = Literal["running", "waiting", "queued", "stopping", "process gone", "failed"]


@dataclass(frozen=True)
class RunRow:
    """One run."""

    run_id: str
    experiment: str | None
    state: RunState
    since: float | None
    """When it started; if it failed, when it ended. Seconds since 1970."""
    reason: str
    """What it waits for, or why it failed."""
    started_by: str

    def to_json(self) -> dict[str, Any]:
        """The row in `ft status --json`."""
        return vars(self)


@dataclass(frozen=True)
class Overview:
    """The runs of a project."""

    active: list[RunRow]
    """Oldest first."""
    failed: list[RunRow]
    """The last failed runs, newest first."""
    daemon_runs: bool
    schedules: list[dict[str, Any]] = field(default_factory=list)
    """Name, status, time and outcome of the last tick of each schedule."""


def run_lock_path(store: Path, run_id: str) -> Path:
    """Return the file that the process of a run locks."""
    return store / "locks" / "runs" / run_id


def process_is_gone(instance: dg.DagsterInstance, record: dg.RunRecord, store: Path) -> bool:
    """Return whether the process that executes a run has died, or died before it began.

    It locks the run: `ft run` before the run exists, a process of the code server at its first step.
    """
    lock = run_lock_path(store, record.dagster_run.run_id)
    return not is_held(lock) if lock.exists() else _died_before_first_step(instance, record)


def _died_before_first_step(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether a run that a code server executes has no lock although it must have one, and its process is gone.

    With other executors than the one of a single process, Dagster watches the processes itself.
    """
    run, plan_id = record.dagster_run, record.dagster_run.execution_plan_snapshot_id
    started = run.status in STATUSES_WITH_PROCESS
    allowed = FIRST_STEP_SECONDS if started else instance.run_monitoring_start_timeout_seconds
    if time.time() < record.update_timestamp.timestamp() + allowed or run.status == dg.DagsterRunStatus.QUEUED:
        return False
    if (started and GRPC_INFO_TAG not in run.tags) or plan_id is None or not is_own_run(run):
        return False
    plan = instance.get_execution_plan_snapshot(plan_id)
    notes = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    pids = {int(pid) for note in notes for pid in re.findall(r"^Started process for run \(pid: (\d+)\)", note.message)}
    return plan.executor_name == dg.in_process_executor.name and not any(map(psutil.pid_exists, pids))


def read_overview(instance: dg.DagsterInstance, store: Path) -> Overview:
    """Read what `ft status` shows of the runs."""
    uses = [*device_uses(device_locks(store)), *device_uses(lock_folder())]
    active = _own(instance.get_run_records(dg.RunsFilter(statuses=ACTIVE), limit=MAX_RUNS))
    holders = [record for record in active if record.dagster_run.status in STATUSES_WITH_PROCESS]
    failures = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=MAX_RUNS)
    failed = _own(failures)[:FAILURES]
    reasons = _reasons(instance) if failed else {}
    beats = instance.get_daemon_heartbeats().values()
    return Overview(
        active=[_active_row(instance, record, uses, store, len(holders)) for record in reversed(active)],
        failed=[
            _row(record, "failed", record.end_time, reasons.get(record.dagster_run.run_id, "see `ft logs`"))
            for record in failed
        ],
        daemon_runs=any(beat.timestamp > time.time() - DAEMON_SECONDS for beat in beats),
        schedules=_schedules(instance),
    )


def _own(records: Iterable[dg.RunRecord]) -> list[dg.RunRecord]:
    """The records of this project's runs: the instance may have others."""
    return [record for record in records if is_own_run(record.dagster_run)]


def _active_row(
    instance: dg.DagsterInstance, record: dg.RunRecord, uses: Sequence[DeviceUse], store: Path, under_way: int
) -> RunRow:
    state, reason = _state(record.dagster_run, uses, under_way)
    if process_is_gone(instance, record, store):
        state, reason = "process gone", "`ft run`, the daemon or `ft cancel` ends it"
    return _row(record, state, record.start_time or record.create_timestamp.timestamp(), reason)


def _state(run: dg.DagsterRun, uses: Sequence[DeviceUse], under_way: int) -> tuple[RunState, str]:
    if run.status in WITHOUT_PROCESS:
        return "queued", f"the daemon starts it when one of {under_way} runs under way ends" if under_way else ""
    if run.status == dg.DagsterRunStatus.CANCELING:
        return "stopping", ""
    for use in uses:
        position = next((place for place, job in enumerate(use.waiting) if _belongs(job, run)), None)
        if position is not None:
            ahead = [*([use.holder] if use.holder else []), *use.waiting[:position]]
            return "waiting", f"for {use.device}" + (f", behind {', '.join(ahead)}" if ahead else "")
    return "running", ""


def _belongs(job: str, run: dg.DagsterRun) -> bool:
    """Whether a job in the line for a device is a step of the run."""
    return f" of run {run.run_id[:8]} " in job


def _reasons(instance: dg.DagsterInstance) -> dict[str, str]:
    """Run id → why it failed, of the last failed runs. From one table, not from the log of each run."""
    changes = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=4 * FAILURES)
    return {record.run_id: _describe_failure(record.event_log_entry) for record in changes.records}


def _describe_failure(entry: dg.EventLogEntry) -> str:
    step = entry.get_dagster_event().job_failure_data.first_step_failure_event
    return describe_step_failure(step) if step else entry.message


def root_message(error: SerializableErrorInfo | None) -> str:
    """Return the message of the error that an error of a step was caused by; empty without one."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else ""


def describe_step_failure(event: dg.DagsterEvent) -> str:
    """Return the step that failed, and the first line of the reason, or the checks that failed."""
    data = event.step_failure_data
    text = data.user_failure_data.description if data.user_failure_data else None
    first, *others = (text or root_message(data.error) or "failed").strip().splitlines()
    if FAILED_CHECKS.search(first):  # Dagster lists them below: `training_data: no_over_length`
        first = f"failed the check {', '.join(line.partition(': ')[2] for line in others)}"
    return f"{asset_of_step(event.step_key or '')}: {first}"


def _row(record: dg.RunRecord, state: RunState, since: float | None, reason: str) -> RunRow:
    run = record.dagster_run
    names = ("dagster/schedule_name", "dagster/sensor_name", "dagster/backfill")
    started_by = terminal_user(run) or next((run.tags[name] for name in names if name in run.tags), "ui")
    return RunRow(run.run_id, experiment_of(run), state, since, reason, started_by)


def _schedules(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    rows = []
    ours = {prefixed(name) for name in SCHEDULES}
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.name not in ours:
            continue
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        tick = ticks[0] if ticks else None
        data = state.instigator_data
        rows.append(
            {
                "name": state.name,
                "cron": getattr(data, "cron_schedule", None),
                "running": state.is_running,
                "last_tick": tick.timestamp if tick else None,
                "outcome": _outcome(tick) if tick else "",
            }
        )
    return rows


def _outcome(tick: InstigatorTick) -> str:
    if tick.status == TickStatus.SUCCESS:
        return f"requested {len(tick.run_ids)} run{'s' * (len(tick.run_ids) != 1)}"
    if tick.status == TickStatus.SKIPPED:
        return tick.skip_reason or "nothing due"
    return tick.error.message.strip().splitlines()[0] if tick.error else tick.status.value.lower()
