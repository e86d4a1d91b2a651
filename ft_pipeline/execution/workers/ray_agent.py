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
from ft_pipeline.execution.workers.heartbeat import STOP, beat
from ft_pipeline.execution.workers.launchers import ORDER
from ft_pipeline.execution.workers.ray_node import ENDED, LOST, STARTED

ADDRESS = "RAY_ADDRESS"
"""Ray's environment variable: the address of its dashboard, which accepts jobs."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
NODE = "ft_pipeline.execution.workers.ray_node"
POLL_SECONDS = 0.5
STATUS_SECONDS = 2.0
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
"""Ray's statuses of a job that has ended."""
SHOWN = 300
"""Maximum characters of Ray's message."""
HEAD_PATIENCE = 600.0
"""Seconds without an answer about the job after which the cluster's head, and the job with it, count as lost."""
ROOM = sum(grace for _, grace in LOST) + 5.0
"""Seconds that a worker takes to end once its patience is over, plus a margin."""


def main(arguments: Sequence[str]) -> int:
    """Run the job in the file that `arguments` names on the cluster. Returns the worker's exit code."""
    job_file = Path(arguments[0])
    asked = _Asked(int(os.environ.pop(process_guard.LIFELINE)))
    order = json.loads((job_file.parent / ORDER).read_text(encoding="utf-8"))
    beat(job_file.parent, "0")
    try:
        watch = _Watch(*_submit(job_file, order))
    except UserError as error:
        return worker.refuse(job_file, str(error))
    return _follow(job_file, order["patience"], asked, watch)


class _Asked:
    """Counts requests to stop this process: 1 after a signal or the supervisor's death, 2 after a second signal."""

    def __init__(self, lifeline: int) -> None:
        self._lifeline = lifeline
        self._signals = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def times(self) -> int:
        gone = bool(select.select([self._lifeline], [], [], 0)[0])
        return self._signals or int(gone)


class _Watch:
    """Ray's status of a job, polled in a thread because an answer may take long."""

    def __init__(self, client: Any, job: str) -> None:
        self.status, self.message = "PENDING", ""
        self._answered = time.monotonic()
        self._client, self._job = client, job
        self._stopped = False
        threading.Thread(target=self._ask, daemon=True).start()

    @property
    def ended(self) -> bool:
        return self.status in OVER or self.silent

    @property
    def silent(self) -> bool:
        """Whether the cluster's head counts as lost."""
        return self.status not in OVER and time.monotonic() - self._answered > HEAD_PATIENCE

    def stop(self) -> None:
        """Ask Ray to end the job, once."""
        if not self._stopped:
            self._stopped = True
            threading.Thread(target=self._stop, daemon=True).start()

    def _ask(self) -> None:
        while not self.ended:
            try:
                info = self._client.get_job_info(self._job)
                self._answered = time.monotonic()
                self.message = info.message or ""  # before the status, which the main thread waits for
                self.status = str(info.status)
            except Exception as error:  # the cluster's head may be unreachable for a while
                self.message = first_line(error)
            time.sleep(STATUS_SECONDS)

    def _stop(self) -> None:
        with contextlib.suppress(Exception):
            self._client.stop_job(self._job)


def _submit(job_file: Path, order: dict[str, Any]) -> tuple[Any, str]:
    """Submit the job; return (client, the job's id). Raises UserError without Ray, or if no cluster answers."""
    try:
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError:
        raise UserError("FT_LAUNCHER=ray needs the extra `ray`. Run: pip install 'ft-pipeline[ray]'") from None
    address = os.environ.get(ADDRESS) or DEFAULT_ADDRESS
    kind = json.loads(job_file.read_text(encoding="utf-8"))["kind"]
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(
            entrypoint="exec " + shlex.join([order["python"], "-P", "-m", NODE, str(job_file)]),
            submission_id=f"ft-{kind}-{uuid.uuid4().hex[:12]}",
            metadata={"kind": kind, "folder": str(job_file.parent)},
            entrypoint_num_cpus=order["cpus"],
            entrypoint_num_gpus=order["gpus"] or None,
        )
    except Exception as error:  # the library raises many types for a refused connection
        raise UserError(
            f"The Ray cluster at {address} did not accept the job: {first_line(error)}. Start it, or set {ADDRESS} to "
            "the address of its dashboard."
        ) from error
    sys.stderr.write(f"submitted to Ray as {job}\n")  # the worker's log
    return client, job


def _follow(job_file: Path, patience: float, asked: _Asked, watch: _Watch) -> int:
    folder, count = job_file.parent, 0
    while not watch.ended:
        if (code := _ended(folder)) is not None:
            return code
        count += 1
        times = asked.times()
        with contextlib.suppress(OSError):  # a full disk stops the heartbeat; if it lasts, the worker stops
            beat(folder, STOP if times else str(count))
        if times > 1 or (times and not (folder / STARTED).exists()):
            watch.stop()
        time.sleep(POLL_SECONDS)
    # The job ended, lost its node, or Ray no longer answers. A worker that still runs stops without a heartbeat.
    deadline = time.monotonic() + (patience + ROOM if (folder / STARTED).exists() else 0)
    while (code := _ended(folder)) is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if code is not None:
        return code
    return worker.INTERRUPTED if asked.times() else _lost(job_file, watch)


def _ended(folder: Path) -> int | None:
    """The worker's exit code; None until it has ended."""
    try:
        return int(json.loads((folder / ENDED).read_text(encoding="utf-8"))["code"])
    except (OSError, ValueError):
        return None


def _lost(job_file: Path, watch: _Watch) -> int:
    reason = " ".join(watch.message.split()) or "no reason given"
    reason = reason if len(reason) <= SHOWN else f"… {reason[-SHOWN:]}"  # the error is at the end of a log
    if watch.silent:
        reason = f"no status of the job for {HEAD_PATIENCE:.0f} s: {reason}"
    where = job_file.parent / STARTED
    if where.exists():
        host = json.loads(where.read_text(encoding="utf-8"))["host"]
        gone = "the head of the Ray cluster" if watch.silent else f"the worker's Ray node ({host})"
        message = f"{gone} is gone. Run again to resume from the last checkpoint. Ray reports: {reason}"
    else:
        message = f"Ray could not start the worker: {reason}"
    return worker.fail(job_file, message, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
