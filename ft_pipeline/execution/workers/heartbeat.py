"""A lifeline between machines: a file on the shared file system that whoever waits for a worker keeps writing anew.

Each side believes that the other is gone after `patience` seconds of silence, by its own clock: the worker then stops,
and who waited may begin it again only when the worker is sure to have stopped. So there are never two of it.
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
    """The worker's side."""

    def __init__(self, folder: Path, patience: float) -> None:
        self._file = folder / _FILE
        self._patience = patience
        self._text = ""
        self._since = time.monotonic()

    def heard(self) -> Literal["alive", "stop", "silence"]:
        """What the other side is now; it opens the file each time, so that a network disk looks anew."""
        try:
            text = self._file.read_text(encoding="utf-8")
        except OSError:
            text = self._text
        if text == STOP:
            return "stop"
        if text != self._text:
            self._text, self._since = text, time.monotonic()
        return "alive" if time.monotonic() - self._since < self._patience else "silence"
