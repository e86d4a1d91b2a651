"""Runs one job in a worker process: reports its progress and errors, and ensures that it ends.

Dagster's own subprocess client leaves a child running if it ignores SIGINT, or if the step or the run is killed.
"""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ft_pipeline.errors import UserError
from ft_pipeline.events import Progress, progress_is_shown
from ft_pipeline.execution.interrupts import raise_if_interrupted
from ft_pipeline.execution.workers import worker
from ft_pipeline.execution.workers.launchers import Launcher, WorkerProcess
from ft_pipeline.execution.workers.message_channels import Channel, open_channel
from ft_pipeline.execution.workers.stall_watch import StallWatch
from ft_pipeline.pace import Pace
from ft_pipeline.store.atomic_files import full_disk_message

if TYPE_CHECKING:  # agents on a cluster and on this machine stop workers with this module, and need no Dagster
    import dagster as dg

POLL_SECONDS = 0.1
StopSequence = tuple[tuple[signal.Signals, float], ...]
"""Signals that are sent one after the other until a process has ended, and the seconds to wait after each."""
WORKER_STOP_SEQUENCE: StopSequence = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""Stops a worker within 25 s. SIGINT: it saves a checkpoint."""
LOG_TAIL_BYTES = 6_000
"""Maximum bytes of the worker's log that an error shows, from its end."""


@dataclass(frozen=True)
class WorkerJob:
    """A job, as the worker receives it."""

    kind: str
    label: str
    """Its name in messages: the asset, with its experiment."""
    config: dict[str, Any]
    inputs: Mapping[str, Path]
    folder: Path
    """The folder for job.json, result.json, error.json and worker.log."""
    out: Path
    work: Path
    device: str = "cpu"
    seed: int = 0
    handling: Mapping[str, Any] = field(default_factory=dict)
    shared: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the worker's environment: the leased devices."""
    variables: tuple[str, ...] = ()
    """Names or patterns of variables that this job needs besides those of every worker. No value is written."""
    stall_seconds: float = math.inf
    """Seconds without progress after which the worker is ended (stall_watch.py)."""

    def write(self) -> Path:
        """Write job.json, and return its path."""
        content = {
            "kind": self.kind,
            "config": self.config,
            "inputs": {name: str(path) for name, path in self.inputs.items()},
            "out": str(self.out),
            "work": str(self.work),
            "device": self.device,
            "seed": self.seed,
            "handling": dict(self.handling),
            "shared": str(self.shared) if self.shared else None,
            "variables": list(self.variables),
            "stall_seconds": None if math.isinf(self.stall_seconds) else self.stall_seconds,
        }
        path = self.folder / "job.json"
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return path


@dataclass(frozen=True)
class WorkerResult:
    """The result of a job that succeeded."""

    summary: dict[str, Any]
    seconds: float
    peak_rss_bytes: int


class WorkerError(Exception):
    """The worker failed for a reason that the user cannot fix."""

    def __init__(self, message: str, exit_code: int, log_tail: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.log_tail = log_tail
        self.add_note(log_tail)  # a printed traceback shows the worker's last output


class WorkerLost(WorkerError):
    """A cluster took the worker's machine away. The same job can run elsewhere, from its checkpoint."""


def run_worker(
    context: "dg.AssetExecutionContext | None",
    job: WorkerJob,
    launcher: Launcher,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    log: Callable[[str], None] = lambda message: None,
    stop_sequence: StopSequence = WORKER_STOP_SEQUENCE,
) -> WorkerResult:
    """Run `job` until it ends; return its result.

    context: with it, messages go through Dagster Pipes and the worker's output into the step's compute log
        (unless a progress listener is subscribed: a terminal shows progress instead).
    on_progress, log: receive the job's reports and log lines (with a context, Dagster writes the lines itself).

    Raises UserError for an error that the user can fix, WorkerLost for a machine that a cluster took away, and
    WorkerError for a crash or a kill. An exception that interrupts this process is raised again once the worker and
    everything that it started have ended.
    """
    log_file = job.folder / "worker.log"
    log_file.touch()
    messages = _WorkerMessages(job, on_progress, log)
    with open_channel(context, job.folder) as channel:
        output = _LogForwarder(log_file if context and not progress_is_shown() else None)
        code, stall = _supervise(job, launcher, channel, messages, output, stop_sequence)
    messages.forward(channel)  # messages that arrived while the channel closed
    return _read_result(job, code, log_file, stall)


def _supervise(
    job: WorkerJob,
    launcher: Launcher,
    channel: Channel,
    messages: "_WorkerMessages",
    output: "_LogForwarder",
    stop_sequence: StopSequence,
) -> tuple[int, str]:
    """Start the worker, and forward what it sends until it ends. Return its exit code, and how it hung or nothing."""
    lifeline, own_end = os.pipe()
    env = {**job.env, **channel.env}
    try:
        try:
            with (job.folder / "worker.log").open("wb") as log:
                process = launcher.start(job.write(), env=env, lifeline=lifeline, log=log)
        finally:
            os.close(lifeline)
        # A launcher that has its own devices runs the worker elsewhere, where it is watched (ray_node.py).
        limit = job.stall_seconds if launcher.lease is None else math.inf
        watch = StallWatch(process.pid, job.folder, limit)
        stall = ""
        try:
            while process.poll() is None:
                messages.forward(channel)
                output.forward()
                _check_parent()
                raise_if_interrupted()
                if watch.has_stalled():
                    watch.dump_stacks()
                    messages.forward(channel)
                    stall = watch.describe(messages.last)
                    break
                time.sleep(POLL_SECONDS)
        finally:
            stop(process, stop_sequence)
            output.forward()
        messages.forward(channel)
        return process.returncode, stall
    finally:
        os.close(own_end)


def stop(process: WorkerProcess, stop_sequence: StopSequence = WORKER_STOP_SEQUENCE) -> None:
    """End a worker's process group and all processes below it. Does nothing if they have ended.

    An interrupt while this waits kills them at once, and is raised again afterwards.
    """
    interrupt: BaseException | None = None
    for signal_number, seconds in stop_sequence:
        if process.poll() is not None:
            break
        descendants = _descendants(process.pid)
        _signal_group(process.pid, signal.SIGKILL if interrupt else signal_number)
        if signal_number == signal.SIGKILL or interrupt:
            _kill(descendants)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        except BaseException as error:
            interrupt = error
    _signal_group(process.pid, signal.SIGKILL)  # processes that a killed guard left in the group
    if interrupt:
        raise interrupt


def _signal_group(pid: int, signal_number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal_number)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _check_parent() -> None:
    """If Dagster runs the step in a child process, stop when the process of the run is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise RuntimeError("the process of the run has ended, so this step stops")


class _WorkerMessages:
    """Converts the worker's messages to Progress and log lines."""

    def __init__(self, job: WorkerJob, on_progress: Callable[[Progress], None], log: Callable[[str], None]) -> None:
        self.job = job
        self.on_progress = on_progress
        self.log = log
        self.pace = Pace()
        self.last = ""
        """The last message, as a line."""

    def forward(self, channel: Channel) -> None:
        for message in channel.drain():
            if message.get("type") == "log":
                self.last = message["message"]
                self.log(self.last)
            elif message.get("type") == "progress":
                step, total = message["step"], message["total"]
                elapsed, eta = self.pace.update(step, total)
                progress = Progress(self.job.kind, self.job.label, step, total, message["values"], elapsed, eta)
                self.last = progress.line()
                self.on_progress(progress)


class _LogForwarder:
    """Copies the worker's output to this process's stderr, which Dagster captures as the step's log."""

    def __init__(self, path: Path | None) -> None:
        self.file = path.open(encoding="utf-8", errors="replace") if path else None

    def forward(self) -> None:
        if self.file and (text := self.file.read()):
            sys.stderr.write(text)
            sys.stderr.flush()


def _read_result(job: WorkerJob, code: int, log_file: Path, stall: str) -> WorkerResult:
    """stall: how the worker hung; empty if it did not."""
    tail = _read_tail(log_file)
    result = _read_json(job.folder / worker.RESULT_FILE)
    if code == 0 and result:
        return WorkerResult(result["summary"], result["seconds"], result["peak_rss_bytes"])
    if stall:
        raise WorkerError(f"{job.label}: {stall}", code, tail)
    message = (_read_json(job.folder / worker.ERROR_FILE) or {}).get("message") or tail.strip().rpartition("\n")[2]
    if code == worker.USER_ERROR:
        raise UserError(message or full_disk_message())  # nothing else keeps a worker from writing its message
    failure = WorkerLost if code == worker.LOST else WorkerError
    raise failure(f"{job.label}: {_describe_exit(code, message)}", code, tail)


def _describe_exit(code: int, message: str) -> str:
    if code == 0:
        return "the worker ended without a result"
    if code == worker.INTERRUPTED:
        return "the worker was interrupted. Run again to resume from the last checkpoint."
    if code == worker.LOST:
        return message
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        cause = " (usually out of memory)" if number == signal.SIGKILL else ""
        return f"the worker was killed by {_signal_name(number)}{cause}. Run again to resume from the last checkpoint."
    return f"the worker failed with exit code {code}: {message}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read_tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
