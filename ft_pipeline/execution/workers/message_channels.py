"""The supervisor's side of progress reports: a Dagster Pipes session under Dagster, otherwise a file of lines.

Both use files next to the job, which a worker on another machine can write, too.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ft_pipeline.execution.workers.reporting import PROGRESS_FILE

if TYPE_CHECKING:
    import dagster as dg

NOTES_FILE = "notes.jsonl"
"""File next to a job for the messages of the process that represents the worker on this machine, e.g. that it waits in
a cluster's queue. The worker's own file may be written on another machine."""


class Channel(Protocol):
    """Carries a worker's messages."""

    env: Mapping[str, str]
    """The environment variables by which the worker finds the channel."""

    def drain(self) -> list[dict[str, Any]]:
        """Return the messages since the last call; never waits."""
        ...


@contextlib.contextmanager
def open_channel(context: "dg.AssetExecutionContext | None", folder: Path) -> Iterator[Channel]:
    """Open a channel for one worker, with its files in `folder`. Drain it once more after the `with` block."""
    notes = FileChannel(folder / NOTES_FILE)
    if context is None:
        yield _WithNotes(FileChannel(folder / "messages.jsonl"), notes)
        return
    import dagster as dg

    injector = dg.PipesFileContextInjector(str(folder / "pipes_context.json"))
    reader = dg.PipesFileMessageReader(str(folder / "pipes_messages.jsonl"))
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():  # Dagster warns of a preview function that it calls itself
            warnings.simplefilter("ignore", dg.PreviewWarning)
            session = stack.enter_context(dg.open_pipes_session(context, injector, reader))
        yield _WithNotes(SessionChannel(session), notes)


class _WithNotes:
    """The messages of a worker, and those of the process that represents it."""

    def __init__(self, channel: Channel, notes: Channel) -> None:
        self.env = channel.env
        self._channels = (notes, channel)

    def drain(self) -> list[dict[str, Any]]:
        return [message for channel in self._channels for message in channel.drain()]


class SessionChannel:
    """Dagster Pipes: log lines go directly to the run's log, progress arrives as custom messages."""

    def __init__(self, session: "dg.PipesSession") -> None:
        self.env: Mapping[str, str] = session.get_bootstrap_env_vars()
        self._session = session
        self._drained_count = 0

    def drain(self) -> list[dict[str, Any]]:
        messages = self._session.get_custom_messages()
        new = list(messages[self._drained_count :])
        self._drained_count = len(messages)
        return new


class FileChannel:
    """JSON lines in a file."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.env: Mapping[str, str] = {PROGRESS_FILE: str(path)}
        self._path = path
        self._offset = 0

    def drain(self) -> list[dict[str, Any]]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            complete = file.read().rpartition(b"\n")[0]  # the rest of a line is still being written
        self._offset += len(complete) + bool(complete)
        return [json.loads(line) for line in complete.split(b"\n") if line]
