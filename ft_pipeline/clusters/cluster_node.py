"""Runs a worker on a node of a cluster; the entry point of a Ray or SLURM job.

    python -m ft_pipeline.clusters.cluster_node JOB_JSON

    supervisor ── agent ── (the cluster, and a file on the shared disk) ── cluster_node ── guard ── worker

Starts the worker that the order file names. Ends it on request, on a signal of the cluster, or when no heartbeat
arrives any more. Writes its exit code to a file, because a cluster reports the end of a job late.
"""

import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ft_pipeline.execution.workers import worker
from ft_pipeline.execution.workers.heartbeat import HeartbeatMonitor
from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.execution.workers.reporting import PROGRESS_RECORD
from ft_pipeline.execution.workers.stall_watch import StallWatch, last_progress
from ft_pipeline.execution.workers.supervisor import WORKER_STOP_SEQUENCE, StopSequence, stop

ORDER_FILE = "order.json"
"""File next to a job that goes to a cluster: what to start for it."""
STARTED_FILE, ENDED_FILE = "started.json", "ended.json"
"""Files next to the job and its order: the host and pid that it was started with; the worker's exit code, and the
signal of the cluster that ended it."""
LOST_STOP_SEQUENCE: StopSequence = ((signal.SIGINT, 5.0), (signal.SIGKILL, 5.0))
"""Stops a worker whose heartbeat is lost. Time is short: the same job may be started again elsewhere."""
TIME_LIMIT_SIGNAL = signal.SIGUSR2
"""The signal that SLURM sends some time before a job's time limit."""
POLL_SECONDS = 0.2


class _ClusterSignal(KeyboardInterrupt):
    """The cluster asks the job to end."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def main(arguments: Sequence[str]) -> int:
    """Run the job in the file that `arguments` names until it ends. Returns the worker's exit code."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # Ray blocks SIGINT in its processes
    for number in (signal.SIGTERM, TIME_LIMIT_SIGNAL):
        signal.signal(number, _interrupt)
    job_file = Path(arguments[0])
    folder = job_file.parent
    try:
        order = json.loads((folder / ORDER_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        sys.exit(f"{socket.gethostname()} cannot read the job ({error}). Mount the project folder at the same path.")
    with contextlib.suppress(OSError):  # SLURM starts a job again whose node it took away
        (folder / ENDED_FILE).unlink()
    write_json(folder / STARTED_FILE, {"host": socket.gethostname(), "pid": os.getpid()})
    try:
        code, signal_name = _run(job_file, order)
    except KeyboardInterrupt as interrupt:  # a second signal, or a signal before the worker started
        code, signal_name = worker.INTERRUPTED, _name(interrupt)
    write_json(folder / ENDED_FILE, {"code": code, "signal": signal_name})
    return code


def _run(job_file: Path, order: dict[str, Any]) -> tuple[int, str | None]:
    """Return the worker's exit code, and the name of the cluster's signal that ended it."""
    monitor = HeartbeatMonitor(job_file.parent, order["patience"])
    lifeline, own_end = os.pipe()
    state, signal_name, stalled = "alive", None, 0
    try:
        with (job_file.parent / "worker.log").open("ab") as log:
            process = LocalLauncher(order["entry"]).start(job_file, env=order["env"], lifeline=lifeline, log=log)
        os.close(lifeline)
        fields = json.loads(job_file.read_text(encoding="utf-8"))
        watch = StallWatch(process.pid, job_file.parent, fields.get("stall_seconds") or math.inf)
        try:
            while process.poll() is None and (state := monitor.status()) == "alive":
                if watch.has_stalled():
                    watch.dump_stacks()
                    last = last_progress(Path(fields["work"]) / PROGRESS_RECORD)
                    stalled = worker.report_error(job_file, watch.describe(last), 1)
                    break
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt as interrupt:
            state, signal_name = "stop", _name(interrupt)
        stop(process, LOST_STOP_SEQUENCE if state == "lost" else WORKER_STOP_SEQUENCE)
    finally:
        os.close(own_end)
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return stalled or code, signal_name


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically: the file is complete or absent."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise _ClusterSignal(signal.Signals(number).name)


def _name(interrupt: KeyboardInterrupt) -> str | None:
    return interrupt.name if isinstance(interrupt, _ClusterSignal) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
