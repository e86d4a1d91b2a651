"""One writer at a time, across processes: file locks that end with the process that holds them."""

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
    """The listener of whoever does not want to hear that it waits."""


class FileLock:
    """An exclusive lock on a file. The kernel frees it when its holder ends, however it ends; the file itself stays,
    since removing it would let two holders in. Two threads of one process exclude each other, too."""

    def __init__(self, path: Path, purpose: str) -> None:
        self.path = path
        self.purpose = purpose
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
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
        with contextlib.suppress(
            OSError
        ):  # the note for those who wait is a courtesy; a full disk must not undo the lock
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "purpose": self.purpose}).encode())
        return True

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def keep(self) -> None:
        """Hold it on in the program that this process becomes (exec), until that ends; its children do not have it."""
        if self._descriptor is not None:
            os.set_inheritable(self._descriptor, True)

    def holder(self) -> str:
        """Who holds it, in words, as far as its note says."""
        try:
            note = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {note['pid']} ({note['purpose']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    @contextlib.contextmanager
    def hold(self, say: Callable[[str], None] = _ignore) -> Iterator[None]:
        """Hold the lock for a `with` block, waiting as long as it takes; `say` hears once for whom it waits."""
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
