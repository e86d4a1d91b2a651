"""Runs a serving engine in a separate process: reports whether it is ready or has failed, and ensures that it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from ft_pipeline.execution.workers import process_guard
from ft_pipeline.execution.workers.launchers import worker_environment
from ft_pipeline.execution.workers.supervisor import StopSequence, stop

Address = tuple[str, int]
"""Host and port."""
ENGINE_STOP_SEQUENCE: StopSequence = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""Stops an engine. It needs little time, because it writes nothing that must be finished."""
_HEALTH_SECONDS = 2.0


def free_port(host: str) -> int:
    """Return a port on which no process listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class EngineProcess:
    """An engine's process and all processes below it. Their output goes to stderr. They end with this process."""

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str], address: Address) -> None:
        """Start `command` in `folder`. address: where it will answer GET /health."""
        self.address = address
        lifeline, self._own_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ft_pipeline.execution.workers.run_guarded", *command],
                cwd=folder,
                env={**worker_environment(), **env, process_guard.LIFELINE: str(lifeline)},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                pass_fds=(lifeline,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._own_end)
            raise
        finally:
            os.close(lifeline)

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def is_healthy(self) -> bool:
        """Whether GET /health succeeds."""
        try:
            return send(self.address, "GET", "/health", seconds=_HEALTH_SECONDS)[0] == httpx2.codes.OK
        except httpx2.HTTPError:
            return False

    def stop(self) -> None:
        """End all of its processes. Do not call it twice."""
        try:
            stop(self._process, ENGINE_STOP_SEQUENCE)
        finally:
            os.close(self._own_end)


def send(address: Address, method: str, path: str, document: Any = None, *, seconds: float) -> tuple[int, bytes]:
    """Send one request, with a document as JSON, and return the status and the body of the response.

    Raises httpx2.HTTPError if there is no response within `seconds`.
    """
    host, port = address
    # This machine needs no proxy, and no certificates, which each client would read.
    with httpx2.Client(trust_env=False, verify=False, timeout=seconds) as client:
        response = client.request(method, f"http://{host}:{port}{path}", json=document)
    return response.status_code, response.content
