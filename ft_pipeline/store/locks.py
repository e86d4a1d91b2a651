"""File locks: one writer at a time across processes. A lock ends with the process that holds it."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ft_pipeline.store.atomic_files import translate_write_errors

POLL_SECONDS = 0.2


def _ignore(message: str) -> None:
    """Discard the message that the caller waits for a lock."""


class FileLock:
    """An exclusive lock on a file. The kernel releases it when its holder ends, for any reason.

    The file itself stays, because removing it would allow two holders. Two threads of one process also exclude each
    other.
    """

    def __init__(self, path: Path, purpose: str) -> None:
        self.path = path
        self.purpose = purpose
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free, and return whether it was free."""
        with translate_write_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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

    def keep(self) -> None:
        """Keep the lock after exec, until the new program ends. Its children do not have the lock."""
        if self._descriptor is not None:
            os.set_inheritable(self._descriptor, True)

    def holder(self) -> str:
        """Return a description of the process that holds it, from its note."""
        try:
            note = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {note['pid']} ({note['purpose']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    @contextlib.contextmanager
    def hold(self, say: Callable[[str], None] = _ignore) -> Iterator[None]:
        """Hold the lock for a `with` block, after waiting without a limit. `say` receives the current holder once."""
        waited = False
        while not self.try_acquire():
            if not waited:
                say(f"waiting: {self.purpose} is under way in {self.holder()}")
                waited = True
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            self.release()
