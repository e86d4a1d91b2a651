"""A heartbeat between machines: a file on the shared file system that the process waiting for a worker keeps rewriting.

The worker stops after `patience` seconds without a change, by its own clock. If the waiting process loses the worker,
it waits longer than that before it reports the loss. So a job that is started again never runs twice at once.
"""

import time
from pathlib import Path
from typing import Literal

DEFAULT_PATIENCE = 30.0
"""Seconds; a network disk may show a change late."""
STOP = "stop"
"""Content of the file that asks the worker to stop."""
_FILE = "lifeline"


def write_heartbeat(folder: Path, text: str) -> None:
    """Write STOP, or a text that differs from the last one."""
    partial = folder / f"{_FILE}.part"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / _FILE)


class HeartbeatMonitor:
    """The worker's side of the heartbeat."""

    def __init__(self, folder: Path, patience: float) -> None:
        self._file = folder / _FILE
        self._patience = patience
        self._text = ""
        self._last_change = time.monotonic()

    def status(self) -> Literal["alive", "stop", "lost"]:
        """Return `alive` if the worker should continue.

        Opens the file each time, so that a network disk reads it again. `lost`: no change for `patience` seconds.
        """
        try:
            text = self._file.read_text(encoding="utf-8")
        except OSError:
            text = self._text
        if text == STOP:
            return "stop"
        if text != self._text:
            self._text, self._last_change = text, time.monotonic()
        return "alive" if time.monotonic() - self._last_change < self._patience else "lost"
