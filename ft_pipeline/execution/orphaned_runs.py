"""Ends runs whose process died without reporting it: after a power cut, an out-of-memory kill, a kill −9.

Dagster's own launcher cannot detect them. It would show them as running forever, and its daemon would hold back other
runs because of them.
Therefore each process that executes a run locks a file named after the run. If that lock is free, the process is gone.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.garbage_collection import garbage_lock
from ft_pipeline.execution.run_overview import ACTIVE, process_is_gone, run_lock_path
from ft_pipeline.store.locks import FileLock

SINGLE_PROCESS_EXECUTORS = {"in_process", "execute_in_process_executor"}
"""Dagster's names of the executors that run all steps in one process: under its launcher, and in `ft run`."""
MESSAGE = "the process of this run died. Its finished steps are kept; run it again to resume."

_run_locks: dict[str, FileLock] = {}
"""Run id → its lock, held until this process ends, however it ends."""


def lock_new_run(store: Path, run_id: str, log: Callable[[str], None] = lambda message: None) -> None:
    """Lock the run, which shows that this process executes it. Then wait until `ft gc` has ended."""
    lock = _run_lock(store, run_id)
    with contextlib.suppress(UserError):  # the step itself reports that the store cannot be written
        if lock.try_acquire():
            _run_locks[run_id] = lock
        with garbage_lock(store).hold(log):
            pass  # from here on, `ft gc` sees the lock and removes nothing


def lock_run(context: dg.AssetExecutionContext, store: Path) -> None:
    """Lock the run of a step, if it is not locked yet: that of the UI or the daemon.

    Only for runs in one process. On Kubernetes, and with an executor that starts a process per step, Dagster watches
    the processes itself.
    """
    run_id = context.run.run_id
    if run_id not in _run_locks and context.job_def.executor_def.name in SINGLE_PROCESS_EXECUTORS:
        lock_new_run(store, run_id, context.log.info)


def end_orphaned_runs(
    instance: dg.DagsterInstance, store: Path, log: Callable[[str], None] = lambda message: None
) -> list[str]:
    """Mark orphaned runs as ended, and return their ids.

    A run of another store has no lock in this one, and is not touched.
    """
    ended = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=ACTIVE)):
        run_id = record.dagster_run.run_id
        if process_is_gone(instance, record, store) and _end_run(instance, run_id):
            log(f"run {run_id[:8]}: {MESSAGE}")
            ended.append(run_id)
    _remove_unused_locks(instance, store)
    return ended


def _end_run(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Mark a run as ended. Returns whether it was not marked yet."""
    run = instance.get_run_by_id(run_id)  # it may have ended normally since the query
    if run is None or run.is_finished:
        return False
    if run.status == dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, MESSAGE)
    else:
        instance.report_run_failed(run, MESSAGE)
    return True


def _remove_unused_locks(instance: dg.DagsterInstance, store: Path) -> None:
    """Remove the locks of runs that have ended; they are never read again.

    A lock that stays, in a store that cannot be written, does no harm.
    """
    for path in (store / "locks" / "runs").glob("*"):
        run = instance.get_run_by_id(path.name)
        if run is not None and run.is_finished:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _run_lock(store: Path, run_id: str) -> FileLock:
    return FileLock(run_lock_path(store, run_id), "executing the run")
