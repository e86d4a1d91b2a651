"""Represents a worker on a Ray cluster: `python -m ft_pipeline.execution.workers.ray_agent JOB_JSON`.

Submits the job, follows it until it ends, and ends with the worker's exit code. If it is asked to stop, or the
supervisor dies, it asks the worker to stop. If it is killed, its heartbeat stops, and then the worker stops
(heartbeat.py).
"""

import contextlib
import json
import os
import select
import shlex
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.execution.workers import process_guard, worker
from ft_pipeline.execution.workers.heartbeat import STOP, write_heartbeat
from ft_pipeline.execution.workers.launchers import ORDER_FILE
from ft_pipeline.execution.workers.ray_node import ENDED_FILE, LOST_STOP_SEQUENCE, STARTED_FILE

RAY_ADDRESS = "RAY_ADDRESS"
"""Ray's environment variable: the address of its dashboard, which accepts jobs."""
DEFAULT_RAY_ADDRESS = "http://127.0.0.1:8265"
NODE_MODULE = "ft_pipeline.execution.workers.ray_node"
POLL_SECONDS = 0.5
"""Interval of the heartbeat, and of looking for the worker's exit code."""
STATUS_SECONDS = 2.0
"""Interval of asking Ray for the job's status."""
FINAL_STATUSES = ("SUCCEEDED", "FAILED", "STOPPED")
"""Ray's statuses of a job that has ended."""
MAX_MESSAGE_CHARACTERS = 300
"""Maximum characters of Ray's message."""
HEAD_TIMEOUT = 600.0
"""Seconds without an answer about the job after which the cluster's head, and the job with it, count as lost."""
WORKER_STOP_SECONDS = sum(seconds for _, seconds in LOST_STOP_SEQUENCE) + 5.0
"""Seconds that a worker takes to stop once it considers the heartbeat lost, with a margin."""


def main(arguments: Sequence[str]) -> int:
    """Run the job in the file that `arguments` names on the cluster. Returns the worker's exit code."""
    job_file = Path(arguments[0])
    stop_requests = _StopRequests(int(os.environ.pop(process_guard.LIFELINE)))
    order = json.loads((job_file.parent / ORDER_FILE).read_text(encoding="utf-8"))
    write_heartbeat(job_file.parent, "0")
    try:
        monitor = _JobMonitor(*_submit(job_file, order))
    except UserError as error:
        return worker.report_user_error(job_file, str(error))
    return _follow_job(job_file, order["patience"], stop_requests, monitor)


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


class _JobMonitor:
    """Ray's status of a job, requested in a thread because an answer may take long."""

    def __init__(self, client: Any, job_id: str) -> None:
        self.status, self.message = "PENDING", ""
        self._last_answer = time.monotonic()
        self._client, self._job_id = client, job_id
        self._stop_requested = False
        threading.Thread(target=self._poll, daemon=True).start()

    @property
    def ended(self) -> bool:
        return self.status in FINAL_STATUSES or self.head_is_lost

    @property
    def head_is_lost(self) -> bool:
        """Whether the cluster's head counts as lost."""
        return self.status not in FINAL_STATUSES and time.monotonic() - self._last_answer > HEAD_TIMEOUT

    def stop(self) -> None:
        """Ask Ray to end the job, once."""
        if not self._stop_requested:
            self._stop_requested = True
            threading.Thread(target=self._request_stop, daemon=True).start()

    def _poll(self) -> None:
        while not self.ended:
            try:
                info = self._client.get_job_info(self._job_id)
                self._last_answer = time.monotonic()
                self.message = info.message or ""  # before the status, which the main thread waits for
                self.status = str(info.status)
            except Exception as error:  # the cluster's head may be unreachable for a while
                self.message = first_line(error)
            time.sleep(STATUS_SECONDS)

    def _request_stop(self) -> None:
        with contextlib.suppress(Exception):
            self._client.stop_job(self._job_id)


def _submit(job_file: Path, order: dict[str, Any]) -> tuple[Any, str]:
    """Submit the job; return (client, the job's id). Raises UserError without Ray, or if no cluster answers."""
    try:
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError:
        raise UserError("FT_LAUNCHER=ray needs the extra `ray`. Run: pip install 'ft-pipeline[ray]'") from None
    address = os.environ.get(RAY_ADDRESS) or DEFAULT_RAY_ADDRESS
    kind = json.loads(job_file.read_text(encoding="utf-8"))["kind"]
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint="exec " + shlex.join([order["python"], "-P", "-m", NODE_MODULE, str(job_file)]),
            submission_id=f"ft-{kind}-{uuid.uuid4().hex[:12]}",
            metadata={"kind": kind, "folder": str(job_file.parent)},
            entrypoint_num_cpus=order["cpus"],
            entrypoint_num_gpus=order["gpus"] or None,
        )
    except Exception as error:  # the library raises many types for a refused connection
        raise UserError(
            f"The Ray cluster at {address} did not accept the job: {first_line(error)}. Start it, or set "
            f"{RAY_ADDRESS} to the address of its dashboard."
        ) from error
    sys.stderr.write(f"submitted to Ray as {job_id}\n")  # the worker's log
    return client, job_id


def _follow_job(job_file: Path, patience: float, stop_requests: _StopRequests, monitor: _JobMonitor) -> int:
    """Follow the job until it has ended or is lost. Returns the worker's exit code."""
    folder, beats = job_file.parent, 0
    while not monitor.ended:
        if (code := _exit_code(folder)) is not None:
            return code
        beats += 1
        requests = stop_requests.count()
        with contextlib.suppress(OSError):  # a full disk stops the heartbeat; if it lasts, the worker stops
            write_heartbeat(folder, STOP if requests else str(beats))
        if requests > 1 or (requests and not (folder / STARTED_FILE).exists()):
            monitor.stop()
        time.sleep(POLL_SECONDS)
    # The job ended, lost its node, or Ray no longer answers. Without a heartbeat, a worker that still runs stops.
    deadline = time.monotonic() + (patience + WORKER_STOP_SECONDS if (folder / STARTED_FILE).exists() else 0)
    while (code := _exit_code(folder)) is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if code is not None:
        return code
    return worker.INTERRUPTED if stop_requests.count() else _report_lost_job(job_file, monitor)


def _exit_code(folder: Path) -> int | None:
    """The worker's exit code; None until it has ended."""
    try:
        return int(json.loads((folder / ENDED_FILE).read_text(encoding="utf-8"))["code"])
    except (OSError, ValueError):
        return None


def _report_lost_job(job_file: Path, monitor: _JobMonitor) -> int:
    """Write the error of a job that ended without the worker's exit code; return the exit code of this process."""
    reason = " ".join(monitor.message.split()) or "no reason given"
    if len(reason) > MAX_MESSAGE_CHARACTERS:
        reason = f"… {reason[-MAX_MESSAGE_CHARACTERS:]}"  # the error is at the end of a log
    if monitor.head_is_lost:
        reason = f"no status of the job for {HEAD_TIMEOUT:.0f} s: {reason}"
    started = job_file.parent / STARTED_FILE
    if started.exists():
        host = json.loads(started.read_text(encoding="utf-8"))["host"]
        lost_part = "the head of the Ray cluster" if monitor.head_is_lost else f"the worker's Ray node ({host})"
        message = f"{lost_part} is gone. Run again to resume from the last checkpoint. Ray reports: {reason}"
    else:
        message = f"Ray could not start the worker: {reason}"
    return worker.report_error(job_file, message, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
