"""Ends runs whose process died without reporting it: after a power cut, an out-of-memory kill, a kill −9.

Dagster's own launcher cannot detect them. It would show them as running, and keep their slot in the pool, forever.
Therefore each process that executes a run locks a file named after the run. If that lock is free, the process is gone.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.garbage_collection import sweeping
from ft_pipeline.store.locks import FileLock

WITH_A_PROCESS = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
IN_ONE_PROCESS = {"in_process", "execute_in_process_executor"}
"""Dagster's names of our executors: under its launcher, and in `ft run`."""
MESSAGE = "the process of this run died. Its finished steps are kept; run it again to resume."

_held: dict[str, FileLock] = {}
"""Run id → its lock, held until this process ends, however it ends."""


def lock_run(context: dg.AssetExecutionContext, store: Path) -> None:
    """Lock the run, which shows that this process executes it.

    Only for runs in one process, as ours are. On Kubernetes, and with an executor that starts a process per step,
    Dagster watches the processes itself.
    """
    run_id = context.run.run_id
    if run_id in _held or context.job_def.executor_def.name not in IN_ONE_PROCESS:
        return
    lock = _lock(store, run_id)
    with contextlib.suppress(UserError):  # the step itself reports that the store cannot be written
        if lock.try_acquire():
            _held[run_id] = lock
        with sweeping(store).hold(context.log.info):
            pass  # from here on, `ft gc` sees the lock and removes nothing


def end_orphaned_runs(
    instance: dg.DagsterInstance, store: Path, say: Callable[[str], None] = lambda message: None
) -> list[str]:
    """Mark orphaned runs as ended, free their slots, and return their ids. Runs on another store are not touched."""
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=WITH_A_PROCESS)):
        lock = _lock(store, run.run_id)
        if lock.path.exists() and lock.try_acquire():
            try:
                if _end(instance, run.run_id):
                    say(f"run {run.run_id[:8]}: {MESSAGE}")
                    ended.append(run.run_id)
            finally:
                lock.release()
    _forget_ended(instance, store)
    return ended


def _end(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)  # it may have ended normally since the query
    if run is None or run.status not in WITH_A_PROCESS:
        return False
    if run.status == dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, MESSAGE)
    else:
        instance.report_run_failed(run, MESSAGE)
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return True


def _forget_ended(instance: dg.DagsterInstance, store: Path) -> None:
    """Remove the locks of runs that have ended; they are never read again.

    A lock that stays, in a store that cannot be written, does no harm.
    """
    for path in (store / "locks" / "runs").glob("*"):
        run = instance.get_run_by_id(path.name)
        if run is not None and run.is_finished:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _lock(store: Path, run_id: str) -> FileLock:
    return FileLock(store / "locks" / "runs" / run_id, "executing the run")
