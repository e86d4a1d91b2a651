"""Finds a run by what a user types, follows its log, and cancels it, whatever state it is in."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil

from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import PARTITION, is_own_run
from ft_pipeline.execution.run_overview import process_is_gone, run_lock_path
from ft_pipeline.execution.workers.device_line import is_held

POLL_SECONDS = 1.0
CANCEL_SECONDS = 90.0
"""Seconds in which a canceled run saves a checkpoint and ends. `ft cancel` waits as long."""
UNSHOWN = {
    "ASSET_MATERIALIZATION_PLANNED",
    "ASSET_CHECK_EVALUATION_PLANNED",
    "ASSET_OBSERVATION",
    "HANDLED_OUTPUT",
    "LOADED_INPUT",
    "LOGS_CAPTURED",
    "RESOURCE_INIT_STARTED",
    "RESOURCE_INIT_SUCCESS",
    "STEP_INPUT",
    "STEP_OUTPUT",
}
"""Types of Dagster's events that say nothing about the work: an observation repeats the line of progress before it."""


def find_run(instance: dg.DagsterInstance, name: str) -> dg.DagsterRun:
    """Return the newest run of an experiment, or the run whose id begins with `name`. Only runs of this project count.

    Raises UserError if there is none, and if several ids begin with `name`.
    """
    of_experiment = instance.get_runs(dg.RunsFilter(tags={PARTITION: name}))
    if newest := next(filter(is_own_run, of_experiment), None):
        return newest
    ids = [run_id for run_id in instance.get_run_ids() if run_id.startswith(name)]
    if len(ids) > 1:
        raise UserError(f"{len(ids)} runs begin with {name!r}. Write more of the id; `ft status` shows it.")
    run = instance.get_run_by_id(ids[0]) if ids else None
    if run is None or not is_own_run(run):
        raise UserError(f"There is no run and no experiment with runs that is named {name!r}. See `ft status`.")
    return run


def log_entries(instance: dg.DagsterInstance, run_id: str, *, follow: bool) -> Iterator[dg.EventLogEntry]:
    """Yield the events of a run that say something, oldest first. follow: until the run has ended."""
    cursor: str | None = None
    while True:
        run = instance.get_run_by_id(run_id)  # before its events, so that the last ones are not missed
        while (page := instance.get_records_for_run(run_id, cursor=cursor)).records:
            entries = (record.event_log_entry for record in page.records)
            yield from (entry for entry in entries if _says_something(entry))
            cursor = page.cursor
            if not page.has_more:
                break
        if not follow or run is None or run.is_finished:
            return
        time.sleep(POLL_SECONDS)


def _says_something(entry: dg.EventLogEntry) -> bool:
    kind = entry.dagster_event_type
    return kind is None or kind.value not in UNSHOWN


def cancel_run(instance: dg.DagsterInstance, store: Path, run: dg.DagsterRun, *, force: bool = False) -> str:
    """Cancel a run, and return what happened, as a line for the user.

    A run that is under way saves a checkpoint first. force: mark the run as canceled even if its process cannot be
    reached. Raises UserError if the run has ended, or if its process cannot be reached.
    """
    if run.is_finished:
        raise UserError(
            f"Run {run.run_id[:8]} has ended already ({run.status.value.lower()}). There is nothing to cancel."
        )
    lock, record = run_lock_path(store, run.run_id), instance.get_run_record_by_id(run.run_id)
    if record is not None and process_is_gone(instance, record, store):
        instance.report_run_canceled(run, "the process of this run was gone")
        return "its process was gone; it is marked as canceled"
    if (pid := _process(lock)) is not None:
        instance.report_run_canceling(run)
        os.kill(pid, signal.SIGINT)
        return _wait(instance, run.run_id)
    if instance.run_coordinator.cancel_run(run.run_id):
        return _wait(instance, run.run_id)
    if not force:
        raise UserError(
            f"The process of run {run.run_id[:8]} cannot be reached from here. Cancel it where it runs, or, if it is "
            "gone, add --force."
        )
    instance.report_run_canceled(run, "marked as canceled by `ft cancel --force`")
    return "marked as canceled; nothing was done to its process"


def _process(lock: Path) -> int | None:
    """The process on this machine that executes a run: the one that has the run's lock open."""
    if not is_held(lock):
        return None
    for process in psutil.process_iter():
        try:
            if any(Path(opened.path) == lock for opened in process.open_files()):
                return process.pid
        except (psutil.Error, OSError):
            continue  # of another user, or just ended
    return None


def _wait(instance: dg.DagsterInstance, run_id: str) -> str:
    deadline = time.monotonic() + CANCEL_SECONDS
    while time.monotonic() < deadline:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return "canceled"
        time.sleep(POLL_SECONDS / 2)
    return f"has not ended after {CANCEL_SECONDS:.0f} s; it was asked to"
