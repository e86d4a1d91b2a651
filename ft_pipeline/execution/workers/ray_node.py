"""Runs a worker on a node of a Ray cluster; the entry point of a Ray job.

    python -m ft_pipeline.execution.workers.ray_node JOB_JSON

    supervisor ── ray_agent ── (Ray, and a file on the shared disk) ── ray_node ── guard ── worker

Starts the worker that the order file names. Ends it on request, or when no heartbeat arrives any more. Writes its exit
code to a file, because Ray reports the end of a job late and without an exit code.
"""

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
from ft_pipeline.execution.workers.launchers import ORDER_FILE, LocalLauncher
from ft_pipeline.execution.workers.reporting import PROGRESS_RECORD
from ft_pipeline.execution.workers.stall_watch import StallWatch, last_progress
from ft_pipeline.execution.workers.supervisor import WORKER_STOP_SEQUENCE, StopSequence, stop

STARTED_FILE, ENDED_FILE = "started.json", "ended.json"
"""Files next to the job and its order: the host and pid that it was started with, and the worker's exit code."""
LOST_STOP_SEQUENCE: StopSequence = ((signal.SIGINT, 5.0), (signal.SIGKILL, 5.0))
"""Stops a worker whose heartbeat is lost. Time is short: the same job may be started again elsewhere."""
POLL_SECONDS = 0.2


def main(arguments: Sequence[str]) -> int:
    """Run the job in the file that `arguments` names until it ends. Returns the worker's exit code."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # Ray blocks SIGINT in its processes
    signal.signal(signal.SIGTERM, _interrupt)
    job_file = Path(arguments[0])
    folder = job_file.parent
    try:
        order = json.loads((folder / ORDER_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        sys.exit(f"{socket.gethostname()} cannot read the job ({error}). Mount the project folder at the same path.")
    write_json(folder / STARTED_FILE, {"host": socket.gethostname(), "pid": os.getpid()})
    try:
        code = _run(job_file, order)
    except KeyboardInterrupt:  # a second signal, or a signal before the worker started
        code = worker.INTERRUPTED
    write_json(folder / ENDED_FILE, {"code": code})
    return code


def _run(job_file: Path, order: dict[str, Any]) -> int:
    monitor = HeartbeatMonitor(job_file.parent, order["patience"])
    lifeline, own_end = os.pipe()
    state, stalled = "alive", 0
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
        except KeyboardInterrupt:
            state = "stop"
        stop(process, LOST_STOP_SEQUENCE if state == "lost" else WORKER_STOP_SEQUENCE)
    finally:
        os.close(own_end)
    return stalled or (process.returncode if process.returncode >= 0 else 128 - process.returncode)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically: the file is complete or absent."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
