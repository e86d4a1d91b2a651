"""Runs a serving engine in a separate process: reports that it is ready or has failed, and ensures that it ends."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers import process_guard
from ft_pipeline.execution.workers.launchers import worker_environment
from ft_pipeline.execution.workers.supervisor import StopSequence, stop

POLL_SECONDS = 0.2
ENGINE_STOP_SEQUENCE: StopSequence = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""Stops an engine. It needs little time, because it writes nothing that must be finished."""


def require_free_port(host: str, port: int) -> None:
    """Raise UserError if a process already listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"Port {port} of {host} is in use. Choose another: --port {port + 1}") from error


def run_engine(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    address: tuple[str, int],
    on_ready: Callable[[], None],
) -> int:
    """Run `command` in `folder` until it ends; return its exit code.

    Its output goes to stderr. on_ready: called once GET /health succeeds at `address` (host, port). An exception that
    interrupts this process is raised again once the engine and all processes below it have ended.
    """
    lifeline, own_end = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ft_pipeline.execution.workers.run_guarded", *command],
                cwd=folder,
                env={**worker_environment(), **env, process_guard.LIFELINE: str(lifeline)},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                pass_fds=(lifeline,),
                start_new_session=True,
            )
        finally:
            os.close(lifeline)
        try:
            while process.poll() is None:
                if _is_healthy(*address):
                    on_ready()
                    return process.wait()
                time.sleep(POLL_SECONDS)
            return process.returncode
        finally:
            stop(process, ENGINE_STOP_SEQUENCE)
    finally:
        os.close(own_end)


def _is_healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)  # ignores proxies in the environment
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
