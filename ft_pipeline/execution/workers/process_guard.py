"""Ensures that no process outlives its purpose: the worker process forks, and a small guard watches the worker.

    supervisor ── guard ── worker ── whatever the worker starts

The guard (no heavy import, a few MB) ends all processes below it when the worker ends, however it ends, and when the
supervisor dies, even by SIGKILL. It has one end of a pipe, the *lifeline*, whose other end closes with the supervisor.
The worker in turn dies with the guard (PR_SET_PDEATHSIG). So any of them may be killed, and no process is left over.
"""

import ctypes
import faulthandler
import os
import select
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

LIFELINE = "FT_LIFELINE_FD"
"""Environment variable: the file descriptor of the guard's end of the lifeline."""
POLL_SECONDS = 0.1
KILL_TIMEOUT_SECONDS = 10.0
"""Limit for ending all processes below the guard."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
DUMP_SIGNAL = signal.SIGUSR1
"""Makes a worker write the stacks of its threads to its log."""


def fork_guarded_worker() -> None:
    """Fork, become the guard, and return only in the worker. Does nothing outside a supervised process."""
    descriptor = os.environ.pop(LIFELINE, None)
    if descriptor is None:
        return
    lifeline = int(descriptor)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # a signal between fork and the handlers waits
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # the guard becomes the parent of orphans below it, and finds them
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.close(lifeline)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # the guard died before the line above
            os._exit(1)
        _handle_signals()
        return
    for number in STOP_SIGNALS:  # they reach the whole group; the worker handles them
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    _watch(worker, lifeline)


def join_guard() -> None:
    """End with the parent, and be interrupted by the same signals.

    For a process that shares its job with others and already has a guard above it.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _handle_signals()


def _handle_signals() -> None:
    """Be interrupted by STOP_SIGNALS, which are blocked until then. DUMP_SIGNAL writes the stacks of all threads."""
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    faulthandler.register(DUMP_SIGNAL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Stop with a checkpoint, after SIGINT and SIGTERM alike.

    A service manager that shuts down the machine sends only SIGTERM. A SIGTERM after another signal ends the worker
    at once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


def _watch(worker: int, lifeline: int) -> NoReturn:
    """Wait until the worker or the supervisor ends, then end all processes below this one."""
    while True:
        supervisor_is_gone = bool(select.select([lifeline], [], [], POLL_SECONDS)[0])
        if supervisor_is_gone:
            _end_descendants()
            os._exit(1)
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended:
            _end_descendants()
            _exit_like_worker(status)


def _exit_like_worker(status: int) -> NoReturn:
    """End with the worker's exit code or signal, so that the supervisor sees how the worker ended."""
    sys.stdout.flush()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _end_descendants() -> None:
    """Send SIGKILL to every process below this one, including those that left the group, until none is left.

    A process that the kernel cannot end (stuck in a driver or on a dead network disk) is left after
    KILL_TIMEOUT_SECONDS.
    """
    import psutil

    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while (children := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)
