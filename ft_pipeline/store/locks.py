"""File locks: one writer at a time across processes. A lock ends with the process that holds it."""

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ft_pipeline.store.atomic_files import translate_write_errors

POLL_SECONDS = 0.2
"""Seconds between two attempts to take a lock that another process holds."""


def _ignore(message: str) -> None:
    """Do nothing with a message."""


class FileLock:
    """An exclusive lock on a file. The kernel releases it when its holder ends, for any reason.

    The file itself stays, because removing it would allow two holders. Two threads of one process also exclude each
    other.
    """

    def __init__(self, path: Path, purpose: str) -> None:
        """purpose: what the holder does (`building adapter`). Waiting processes show it."""
        self.path = path
        self.purpose = purpose
        self._descriptor: int | None = None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free, and return whether it was free. shared: other shared holders do not matter."""
        with translate_write_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        # The note only informs waiting processes. A full disk must not undo the lock.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "purpose": self.purpose}).encode())
        return True

    def release(self) -> None:
        """Release the lock. Does nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def keep_after_exec(self) -> None:
        """Keep the lock when this process executes another program, until that program ends.

        Child processes that Python starts do not inherit the lock.
        """
        if self._descriptor is not None:
            os.set_inheritable(self._descriptor, True)

    def holder(self) -> str:
        """Return a description of the process that holds the lock, from its note."""
        try:
            note = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {note['pid']} ({note['purpose']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    @contextlib.contextmanager
    def hold(
        self, log: Callable[[str], None] = _ignore, *, shared: bool = False, repeat_seconds: float = math.inf
    ) -> Iterator[None]:
        """Wait for the lock without a limit, and hold it for a `with` block.

        log: receives one line if it waits, and the same again after each `repeat_seconds`.
        """
        next_line = time.monotonic()
        while not self.try_acquire(shared=shared):
            if time.monotonic() >= next_line:
                log(f"waiting: {'ft erase' if shared else self.purpose} is under way in {self.holder()}")
                next_line += repeat_seconds
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            self.release()


def project_lock(root: Path) -> FileLock:
    """Return the lock of the whole store `root`. `ft erase` holds it alone; steps, snapshots and `ft gc` share it."""
    return FileLock(root / "locks" / "project", "ft erase")
