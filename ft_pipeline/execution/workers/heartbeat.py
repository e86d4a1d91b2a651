"""A heartbeat between machines: a file on the shared file system that the process waiting for a worker keeps rewriting.

Each side considers the other gone after `patience` seconds without a change, by its own clock. The worker then stops.
The waiting process may restart the job only when the worker has certainly stopped. So a job never runs twice at once.
"""

import time
from pathlib import Path
from typing import Literal

PATIENCE = 30.0
"""Seconds; a network disk may show a change late."""
STOP = "stop"
_FILE = "lifeline"


def beat(folder: Path, text: str) -> None:
    """Write a text that differs from the last one, or STOP, which asks the worker to stop."""
    partial = folder / f"{_FILE}.part"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / _FILE)


class Listener:
    """The worker's side of the heartbeat."""

    def __init__(self, folder: Path, patience: float) -> None:
        self._file = folder / _FILE
        self._patience = patience
        self._text = ""
        self._since = time.monotonic()

    def heard(self) -> Literal["alive", "stop", "silence"]:
        """Return the state of the other side. Opens the file each time, so that a network disk reads it again."""
        try:
            text = self._file.read_text(encoding="utf-8")
        except OSError:
            text = self._text
        if text == STOP:
            return "stop"
        if text != self._text:
            self._text, self._since = text, time.monotonic()
        return "alive" if time.monotonic() - self._since < self._patience else "silence"
