"""Reports which step waits for a slot of the pool, and for which run. Dagster shows that only in its own log."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import dagster as dg

POOL = "gpu"
"""The pool of every asset that needs a device."""
INVOCATION = "ft/invocation"
"""Tag of a run by which a command recognizes the runs that it started."""
POLL_SECONDS = 2.0


@contextlib.contextmanager
def report_pool_waits(
    instance: dg.DagsterInstance, invocation: str, report: Callable[[str, str], None]
) -> Iterator[None]:
    """Within the block, call `report(step, reason)` from a thread, once for each step of this command that waits."""
    stopped = threading.Event()
    watcher = threading.Thread(target=_watch, args=(instance, invocation, report, stopped), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()


def _watch(
    instance: dg.DagsterInstance, invocation: str, report: Callable[[str, str], None], stopped: threading.Event
) -> None:
    reported: set[str] = set()
    while not stopped.wait(POLL_SECONDS):
        waiting: list[tuple[str, str]] = []
        with contextlib.suppress(Exception):  # a busy database is queried again; the run reports other errors
            waiting = _waiting_steps(instance, invocation)
        for step, reason in waiting:
            if step not in reported:
                reported.add(step)
                report(step, reason)


def _waiting_steps(instance: dg.DagsterInstance, invocation: str) -> list[tuple[str, str]]:
    """(step, reason) of the steps of this command that wait for a slot."""
    slots = instance.event_log_storage.get_concurrency_info(POOL)
    pending = [step for step in slots.pending_steps if step.assigned_timestamp is None]
    if not pending:
        return []
    own_run_ids = {run.run_id for run in instance.get_runs(dg.RunsFilter(tags={INVOCATION: invocation}))}
    holders = ", ".join(sorted(f"{slot.step_key} of run {slot.run_id[:8]}" for slot in slots.claimed_slots))
    reason = f"waits for a slot in the pool {POOL}" + (f", which is in use by {holders}" if holders else "")
    return [(step.step_key, reason) for step in pending if step.run_id in own_run_ids]
