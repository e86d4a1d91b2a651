"""What the agents of all clusters do: a process on this machine that represents a worker on a node.

It follows the job until it ends, and asks the worker to stop if it is asked itself, or if the supervisor dies. If it is
killed, its heartbeat stops, and then the worker stops (heartbeat.py).
"""

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ft_pipeline.clusters.cluster_node import ENDED_FILE, LOST_STOP_SEQUENCE, ORDER_FILE, STARTED_FILE
from ft_pipeline.errors import UserError, first_line
from ft_pipeline.execution.workers import process_guard, worker
from ft_pipeline.execution.workers.heartbeat import STOP, write_heartbeat

NODE_MODULE = "ft_pipeline.clusters.cluster_node"
POLL_SECONDS = 0.5
"""Interval of the heartbeat, and of looking for the worker's exit code."""
HEAD_TIMEOUT = 600.0
"""Seconds without an answer about the job after which the cluster's head, and the job with it, count as lost."""
WORKER_STOP_SECONDS = sum(seconds for _, seconds in LOST_STOP_SEQUENCE) + 5.0
"""Seconds that a worker takes to stop once it considers the heartbeat lost, with a margin."""


class JobMonitor(ABC):
    """The cluster's status of a job, requested in a thread because an answer may take long."""

    final_statuses: Sequence[str]
    """The cluster's statuses of a job that has ended."""
    status_seconds = 2.0
    """Interval of asking for the job's status."""

    def __init__(self) -> None:
        self.status, self.message = "PENDING", ""
        self._last_answer = time.monotonic()
        self._stop_requested = False
        threading.Thread(target=self._poll, daemon=True).start()

    @abstractmethod
    def query(self) -> tuple[str, str]:
        """Return the job's status, and the cluster's message about it. Any exception: no answer now."""

    @abstractmethod
    def cancel(self) -> None:
        """Ask the cluster to end the job."""

    @property
    def ended(self) -> bool:
        return self.status in self.final_statuses or self.head_is_lost

    @property
    def head_is_lost(self) -> bool:
        """Whether the cluster's head counts as lost."""
        return self.status not in self.final_statuses and time.monotonic() - self._last_answer > HEAD_TIMEOUT

    def stop(self) -> None:
        """Ask the cluster to end the job, once."""
        if not self._stop_requested:
            self._stop_requested = True
            threading.Thread(target=self._request_stop, daemon=True).start()

    def _poll(self) -> None:
        while not self.ended:
            try:
                status, self.message = self.query()  # the message first: the main thread waits for the status
                self._last_answer = time.monotonic()
                self.status = status
            except Exception as error:  # the cluster's head may be unreachable for a while
                self.message = first_line(error)
            time.sleep(self.status_seconds)

    def _request_stop(self) -> None:
        with contextlib.suppress(Exception):
            self.cancel()


@dataclass(frozen=True)
class JobEnd:
    """How a job ended."""

    code: int | None
    """The worker's exit code; None if it wrote none."""
    signal: str | None
    """The signal of the cluster that ended it."""
    on_request: bool
    """Whether this machine asked it to stop."""


def run_agent(
    arguments: Sequence[str],
    submit: Callable[[Path, dict[str, Any]], JobMonitor],
    report_end: Callable[[Path, JobMonitor, JobEnd], int],
) -> int:
    """Submit the job in the file that `arguments` names, and follow it. Returns the exit code of this process.

    submit: raises UserError if the cluster does not accept the job. report_end: writes the error of a job that the
    cluster ended, and returns the exit code.
    """
    job_file = Path(arguments[0])
    stop_requests = _StopRequests(int(os.environ.pop(process_guard.LIFELINE)))
    order = json.loads((job_file.parent / ORDER_FILE).read_text(encoding="utf-8"))
    write_heartbeat(job_file.parent, "0")
    try:
        monitor = submit(job_file, order)
    except UserError as error:
        return worker.report_user_error(job_file, str(error))
    end = _follow_job(job_file.parent, order["patience"], stop_requests, monitor)
    if end.code is not None and (end.signal is None or end.on_request):
        return end.code
    return worker.INTERRUPTED if end.on_request else report_end(job_file, monitor, end)


class _StopRequests:
    """Counts the requests to stop the job: 1 after a signal or the supervisor's death, 2 after a second signal."""

    def __init__(self, lifeline: int) -> None:
        self._lifeline = lifeline
        self._signals = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._count_signal)

    def _count_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def count(self) -> int:
        supervisor_is_gone = bool(select.select([self._lifeline], [], [], 0)[0])
        return self._signals or int(supervisor_is_gone)


def _follow_job(folder: Path, patience: float, stop_requests: _StopRequests, monitor: JobMonitor) -> JobEnd:
    """Follow the job until it has ended or is lost.

    A job that a signal of the cluster ended is followed further: the cluster may start it again, and knows why.
    """
    beats = 0
    while not monitor.ended:
        requests = stop_requests.count()
        end = _read_end(folder, requests > 0)
        if end.code is not None and (end.signal is None or requests):
            return end
        beats += 1
        with contextlib.suppress(OSError):  # a full disk stops the heartbeat; if it lasts, the worker stops
            write_heartbeat(folder, STOP if requests else str(beats))
        waits = monitor.status == "PENDING" or not (folder / STARTED_FILE).exists()
        if requests > 1 or (requests and waits):
            monitor.stop()
        time.sleep(POLL_SECONDS)
    # The job ended, lost its node, or there is no answer any more. Without a heartbeat, a worker that still runs stops.
    deadline = time.monotonic() + (patience + WORKER_STOP_SECONDS if (folder / STARTED_FILE).exists() else 0)
    while (end := _read_end(folder, stop_requests.count() > 0)).code is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return end


def _read_end(folder: Path, on_request: bool) -> JobEnd:
    try:
        ended = json.loads((folder / ENDED_FILE).read_text(encoding="utf-8"))
        return JobEnd(int(ended["code"]), ended["signal"], on_request)
    except (OSError, ValueError):
        return JobEnd(None, None, on_request)


def started_host(folder: Path) -> str | None:
    """Return the host that the worker was started on; None if it was not started."""
    try:
        return json.loads((folder / STARTED_FILE).read_text(encoding="utf-8"))["host"]
    except OSError:
        return None


def log(message: str) -> None:
    """Write a line to the worker's log."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
