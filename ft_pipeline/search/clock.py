"""The time that the trials of a study took, in a file that survives a kill: a budget counts over restarts."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_pipeline.store.atomic_files import write_atomically

WRITE_SECONDS = 2.0
"""Seconds between two writes: at most this much is lost by a kill."""


class TrialClock:
    """Seconds of each trial in all its attempts, ended or not."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "seconds.json"

    def seconds(self, number: int) -> float:
        """Return the seconds of a trial so far; 0.0 if it has none."""
        return self._read().get(str(number), 0.0)

    @contextmanager
    def running(self, number: int) -> Iterator[None]:
        """Add the time of the block to a trial, also if the process is killed in it."""
        before, started, ended = self.seconds(number), time.monotonic(), threading.Event()

        def write() -> None:
            seconds = before + time.monotonic() - started
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(self._read() | {str(number): seconds}).encode())

        def write_often() -> None:
            while not ended.wait(WRITE_SECONDS):
                write()

        thread = threading.Thread(target=write_often, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            write()

    def _read(self) -> dict[str, float]:
        try:
            seconds: dict[str, float] = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        return seconds
