"""The worker's side of progress reports: to Dagster Pipes if the supervisor opened a session, otherwise to a file."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRESS_FILE = "FT_PROGRESS_FILE"
"""Environment variable: the file for messages, if there is no Dagster Pipes session."""
PROGRESS_RECORD = "progress.jsonl"
"""The file in the job's work folder in which every report is recorded."""
MIN_INTERVAL_SECONDS = 1.0
Send = Callable[[dict[str, Any]], None]
"""Sends one message to the supervisor."""


class JobReporter:
    """Sends at most one progress report per second, plus the last one, and records them in a file."""

    def __init__(self, record: Path, send: Send, send_log: Callable[[str], None]) -> None:
        self._record = record
        self._send = send
        self._send_log = send_log
        self._last = -float("inf")

    def progress(self, step: int, total: int, **values: float) -> None:
        """Report that `step` of `total` is done."""
        now = time.monotonic()
        if now - self._last < MIN_INTERVAL_SECONDS and step < total:
            return
        self._last = now
        numbers = {name: float(value) for name, value in values.items()}
        message = {"step": int(step), "total": int(total), "values": numbers}
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), **message}) + "\n")
        self._send({"type": "progress", **message})

    def log(self, message: str) -> None:
        """Write one line to the run log."""
        self._send_log(str(message))


class NullReporter:
    """The reporter of every rank but the first, which reports for all."""

    def progress(self, step: int, total: int, **values: float) -> None:
        """Do nothing."""

    def log(self, message: str) -> None:
        """Do nothing."""


@contextlib.contextmanager
def open_reporter(record: Path) -> Iterator[JobReporter]:
    """Open the reporter of this process. It appends every report that it sends to `record`, one JSON per line."""
    if "DAGSTER_PIPES_CONTEXT" in os.environ:
        import dagster_pipes

        with dagster_pipes.open_dagster_pipes() as pipes:
            yield JobReporter(record, pipes.report_custom_message, pipes.log.info)
    elif path := os.environ.pop(PROGRESS_FILE, None):
        with Path(path).open("a", encoding="utf-8", buffering=1) as channel:
            send = _line_writer(channel.write)
            yield JobReporter(record, send, lambda text: send({"type": "log", "message": text}))
    else:
        yield JobReporter(record, lambda message: None, print)


def _line_writer(write: Callable[[str], Any]) -> Send:
    def send(message: dict[str, Any]) -> None:
        write(json.dumps(message) + "\n")

    return send
