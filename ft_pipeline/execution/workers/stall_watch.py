"""Notices a worker that hangs: for a set time it reports nothing, writes nothing, and its processes do nearly nothing.

A clock alone would end a worker that is silent while it loads a large model or hashes files. So CPU time and bytes of
the whole process tree count as progress, too. A worker that spins, as threads that wait for each other may, is not
noticed.
"""

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers import process_guard

STALL_MINUTES = "FT_STALL_MINUTES"
"""Environment variable: minutes without progress after which a worker is ended; 0 for never."""
DEFAULT_STALL_MINUTES = 30.0
SAMPLES_PER_LIMIT = 10
MAX_SAMPLE_SECONDS = 15.0
MIN_CPU_SHARE = 0.02
"""Share of one core that the processes use if they work. Threads that only poll use less."""
MIN_BYTES_PER_SECOND = 4096.0
"""Bytes that they read and write per second if they work."""
DUMP_SECONDS = 1.0
"""How long a worker gets to write the stacks of its threads."""


def stall_seconds(waits: float = 0.0) -> float:
    """Return the limit in seconds, infinite if there is none. Raises UserError for an invalid FT_STALL_MINUTES.

    waits: seconds for which the settings of the job allow it to wait, on top of the limit.
    """
    text = os.environ.get(STALL_MINUTES) or str(DEFAULT_STALL_MINUTES)
    try:
        minutes = float(text)
        if not 0 <= minutes < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{STALL_MINUTES}={text!r} is not a number of minutes. Set it to one such as 60, or to 0 for no limit."
        ) from None
    return minutes * 60 + waits if minutes else float("inf")


@dataclass
class StallWatch:
    """Watches one worker."""

    pid: int
    """The process that its launcher started."""
    folder: Path
    """The folder of its job: its log and its messages are there."""
    limit: float
    """Seconds; infinite for never."""
    _active: float = field(default_factory=time.monotonic)
    _sampled: float = field(default_factory=time.monotonic)
    _work: tuple[float, float] = (0.0, 0.0)
    _size: int = 0

    def has_stalled(self) -> bool:
        """Whether there was no progress for `limit` seconds. Looks at the processes from time to time; is cheap."""
        if self.limit == float("inf"):
            return False
        now = time.monotonic()
        elapsed = now - self._sampled
        if elapsed >= min(MAX_SAMPLE_SECONDS, self.limit / SAMPLES_PER_LIMIT):
            work, size = _work_of_tree(self.pid), _size_of_messages(self.folder)
            cpu, count = (abs(new - old) for new, old in zip(work, self._work, strict=True))
            if size != self._size or cpu > MIN_CPU_SHARE * elapsed or count > MIN_BYTES_PER_SECOND * elapsed:
                self._active = now
            self._sampled, self._work, self._size = now, work, size
        return now - self._active > self.limit

    def describe(self, last_report: str) -> str:
        """Return what is wrong, what the worker did last, and what to do."""
        minutes = f"{self.limit / 60:.3g}"
        return (
            f"the worker was ended, because it made no progress for {minutes} min: no report, no CPU time, no bytes. "
            f"Last report: {last_report or 'none'}. If it only needs longer, set {STALL_MINUTES} above {minutes} and "
            "run again."
        )

    def dump_stacks(self) -> None:
        """Make the worker write the stacks of its threads to its log. The worker is the child of its guard."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                child.send_signal(process_guard.DUMP_SIGNAL)
        time.sleep(DUMP_SECONDS)


def last_progress(record: Path) -> str:
    """Return the last entry of a record of progress (reporting.py) as `step 3 of 9`; empty if there is none."""
    try:
        entry = json.loads(record.read_bytes().rstrip().rpartition(b"\n")[2])
        return f"step {entry['step']} of {entry['total']}"
    except (OSError, ValueError, KeyError):
        return ""


def _size_of_messages(folder: Path) -> int:
    """Return the bytes of the log and of the messages, which grow while the worker prints or reports."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in (folder / "worker.log", *folder.glob("*.jsonl")) if path.exists())
    return 0


def _work_of_tree(pid: int) -> tuple[float, float]:
    """Return the CPU seconds and the bytes read and written of a process and all below it, as far as they are known."""
    seconds = count = 0.0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                seconds += sum(process.cpu_times()[:4])  # with children that have ended
                count += _bytes_of(process)
    return seconds, count


def _bytes_of(process: psutil.Process) -> float:
    """Bytes through system calls and, for mapped files, from the disk. 0 on a system that does not count them."""
    counters = process.io_counters() if hasattr(process, "io_counters") else None
    if counters is None:
        return 0.0
    return sum(getattr(counters, name, 0) for name in ("read_chars", "write_chars", "read_bytes", "write_bytes"))
