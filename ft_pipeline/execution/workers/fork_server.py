"""Starts workers as forks of a process that has imported PyTorch and the libraries around it, once for all of them.

    supervisor ── fork server ── guard ── worker

These imports take some eight seconds of CPU time, and a run starts a dozen workers that need them, or a part of them.
A forked worker has the environment, folder, log, signals and exit code of one with an interpreter of its own. Only on
Linux and without a GPU: CUDA survives no fork, and other systems do not promise that libraries do.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ft_pipeline.execution.workers import process_guard
from ft_pipeline.execution.workers.late_compiler import compile_late
from ft_pipeline.execution.workers.worker_variables import allowed_variables

IMPORTED = (
    "ft_pipeline.training.adapter",
    "ft_pipeline.evaluation.scoring.tuned_scores",
    "ft_pipeline.evaluation.rivals.score",
)
"""Modules whose imports are those of nearly all workers with a model."""
_NUMBER = struct.Struct("i")
_MAX_ORDER = 1 << 20
Order = dict[str, Any]
"""What the server starts: the module `entry` with the argument `job`, in `folder` under the environment `env`."""


def is_possible(device: str) -> bool:
    """Whether a worker on `device` can be a fork."""
    return device == "cpu" and sys.platform == "linux"


def is_running(env: Mapping[str, str]) -> bool:
    """Whether this process has a server that can fork a worker with this environment."""
    return bool(_servers) and _servers[0].serves(allowed_variables(env))


@dataclass
class ForkedWorker:
    """A worker that the server forked, with what the supervisor uses of subprocess.Popen."""

    pid: int
    _status: int
    """The end of a pipe through which the server sends the exit code."""
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the worker runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            code = os.read(self._status, _NUMBER.size)
            os.close(self._status)
            self.returncode = _NUMBER.unpack(code)[0] if code else -signal.SIGKILL  # the server was killed
        return self.returncode


def start(entry: str, job_file: Path, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> ForkedWorker:
    """Fork a worker that runs the module `entry` with the argument `job_file`; start the server if there is none.

    env: the whole environment. The other arguments are those of Launcher.start. Raises OSError if the server ends.
    """
    order: Order = {"entry": entry, "job": str(job_file), "env": dict(env), "folder": str(Path.cwd())}
    status, their_status = os.pipe()
    try:
        try:
            _server_for(env).send(order, [lifeline, log.fileno(), their_status])
        finally:
            os.close(their_status)
        pid = os.read(status, _NUMBER.size)
        if not pid:
            raise OSError("the process that forks workers has ended")
        return ForkedWorker(_NUMBER.unpack(pid)[0], status)
    except BaseException:
        os.close(status)
        raise


class _Server:
    """The server, as the process sees it that started it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.owner = os.getpid()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), *IMPORTED],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def serves(self, environment: dict[str, str]) -> bool:
        """Whether it runs, belongs to this process, and has imported its libraries under `environment`."""
        return self.owner == os.getpid() and self.environment == environment and self._process.poll() is None

    def send(self, order: Order, descriptors: list[int]) -> None:
        socket.send_fds(self._control, [json.dumps(order).encode()], descriptors)

    def close(self) -> None:
        """Let the server end. The workers that run go on."""
        self._control.close()
        if self.owner != os.getpid():  # this process was forked from the one that started it
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)  # at most as long as an import takes


_servers: list[_Server] = []
"""The server of this process, if it has one by now."""
_lock = threading.Lock()


def _server_for(env: Mapping[str, str]) -> _Server:
    """Return the server of this process. Libraries read variables while they are imported: others need another one."""
    environment = allowed_variables(env)  # no variable of one job, such as a token
    with _lock:
        if not (_servers and _servers[0].serves(environment)):
            _close_servers()
            _servers.append(_Server(environment))
        return _servers[0]


@atexit.register
def _close_servers() -> None:
    while _servers:
        _servers.pop().close()


def serve(control: socket.socket, modules: Sequence[str]) -> None:
    """Import the modules, fork a worker for each order from `control`, report its end, until the other side closes."""
    compile_late()
    for name in modules:
        if _has_ended(control):
            return
        with contextlib.suppress(Exception):  # a worker that needs it meets the same error and reports it
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a worker would otherwise copy the pages of all modules
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not control:
                    _report_end(selector, key)
                elif not _take_order(selector, control):
                    return


def _has_ended(control: socket.socket) -> bool:
    """Whether the other side has closed, perhaps because it was killed."""
    return bool(select.select([control], [], [], 0)[0]) and not control.recv(1, socket.MSG_PEEK)


def _take_order(selector: selectors.BaseSelector, control: socket.socket) -> bool:
    """Fork the worker of the next order; return whether there was one."""
    message, descriptors, _, _ = socket.recv_fds(control, _MAX_ORDER, 3)
    if not message:
        return False
    lifeline, log, status = descriptors
    pid = os.fork()
    if pid == 0:
        for key in list(selector.get_map().values()):  # no worker keeps a pipe of another one open
            os.close(key.fd)
            if key.data:
                os.close(key.data[1])
        selector.close()
        _become_worker(json.loads(message), lifeline, log, status)
    os.close(lifeline)
    os.close(log)
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
    return True


def _report_end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    pid, status = key.data
    selector.unregister(key.fileobj)
    os.close(key.fd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # no process waits any more
        os.write(status, _NUMBER.pack(code))
    os.close(status)


def _become_worker(order: Order, lifeline: int, log: int, status: int) -> NoReturn:
    """Run the module of the order as `python -m` would, in a session of its own."""
    os.setsid()
    os.write(status, _NUMBER.pack(os.getpid()))  # not before: who knows the process signals its group
    os.close(status)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"] | {process_guard.LIFELINE: str(lifeline)})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [order["entry"], order["job"]]
    runpy.run_module(order["entry"], run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the process that started it
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
