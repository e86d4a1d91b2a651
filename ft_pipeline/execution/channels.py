"""The supervisor's side of progress: a Dagster Pipes session under Dagster, else a pipe of our own."""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import dagster as dg

from ft_pipeline.execution.reporting import CHANNEL

READ_BYTES = 1 << 16


class Channel(Protocol):
    """Carries a worker's messages."""

    env: Mapping[str, str]
    """What the worker needs in its environment to find it."""
    pass_fds: tuple[int, ...]

    def started(self) -> None:
        """The worker has been started and holds its end."""
        ...

    def drain(self) -> list[dict[str, Any]]:
        """The messages since the last call; never waits."""
        ...


@contextlib.contextmanager
def open_channel(context: dg.AssetExecutionContext | None) -> Iterator[Channel]:
    """A channel for one worker; drain it once more after the `with` block."""
    if context is None:
        channel = PipeChannel()
        try:
            yield channel
        finally:
            channel.close()
    else:
        injector, reader = dg.PipesTempFileContextInjector(), dg.PipesTempFileMessageReader()
        with contextlib.ExitStack() as stack:
            with warnings.catch_warnings():  # Dagster warns of a preview function that it calls itself
                warnings.simplefilter("ignore", dg.PreviewWarning)
                session = stack.enter_context(dg.open_pipes_session(context, injector, reader))
            yield SessionChannel(session)


class SessionChannel:
    """Dagster Pipes: log lines go to the run's log by themselves, progress arrives as custom messages."""

    pass_fds: tuple[int, ...] = ()

    def __init__(self, session: dg.PipesSession) -> None:
        self.env: Mapping[str, str] = session.get_bootstrap_env_vars()
        self._session = session
        self._seen = 0

    def started(self) -> None:
        """Nothing to do: the session's files are read by name."""

    def drain(self) -> list[dict[str, Any]]:
        messages = self._session.get_custom_messages()
        fresh = list(messages[self._seen :])
        self._seen = len(messages)
        return fresh


class PipeChannel:
    """JSON lines down a pipe."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self.env: Mapping[str, str] = {CHANNEL: str(self._write)}
        self.pass_fds: tuple[int, ...] = (self._write,)
        self._open = True
        self._rest = b""
        self._late: list[dict[str, Any]] = []

    def started(self) -> None:
        os.close(self._write)
        self._open = False

    def drain(self) -> list[dict[str, Any]]:
        late, self._late = self._late, []
        return late + (self._receive() if self._read >= 0 else [])

    def close(self) -> None:
        """Keep what is still in the pipe for a last `drain`."""
        self._late = self._receive()
        os.close(self._read)
        self._read = -1
        if self._open:
            os.close(self._write)

    def _receive(self) -> list[dict[str, Any]]:
        received = self._rest
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._read, READ_BYTES):
                received += chunk
        *lines, self._rest = received.split(b"\n")
        return [json.loads(line) for line in lines if line]
