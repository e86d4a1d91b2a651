"""Interrupts (Ctrl-C, SIGTERM) that end a run, even where Python or Dagster drops the exception.

An exception that a signal handler raises is printed and dropped, if a destructor or a callback of the garbage collector
happens to run. And Dagster returns the result of an interrupted run like that of one that failed. So the signals are
also noted by a second way, the wakeup descriptor of the module `signal`, which no exception can get lost from.
"""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from ft_pipeline.execution.workers.process_guard import STOP_SIGNALS


@dataclass
class Interrupts:
    """The interrupts since a moment."""

    _arrived: socket.socket
    _seen: bool = False

    def raise_if_any(self) -> None:
        """Raise KeyboardInterrupt if this process was interrupted, now or at an earlier call."""
        with contextlib.suppress(BlockingIOError):
            self._seen = self._seen or not STOP_SIGNALS.isdisjoint(self._arrived.recv(4096))
        if self._seen:
            raise KeyboardInterrupt


_noting: list[Interrupts] = []
_POOL = logging.getLogger("sqlalchemy.pool")
"""It logs the traceback of an interrupt that arrives while a connection to Dagster's database is closed."""


@contextlib.contextmanager
def noting_interrupts() -> Iterator[None]:
    """Note interrupts, and raise KeyboardInterrupt at the end if there was one. Only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread() or _noting:
        yield
        return
    arrived, wakeup = socket.socketpair()
    with arrived, wakeup:
        arrived.setblocking(False)
        wakeup.setblocking(False)
        before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        level = _POOL.level
        _POOL.setLevel(logging.CRITICAL)  # what fails there is raised, too
        _noting.append(Interrupts(arrived))
        try:
            yield
            raise_if_interrupted()
        finally:
            _noting.clear()
            signal.set_wakeup_fd(before)
            _POOL.setLevel(level)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if an interrupt was noted. Does nothing outside `noting_interrupts`."""
    for interrupts in _noting:
        interrupts.raise_if_any()
