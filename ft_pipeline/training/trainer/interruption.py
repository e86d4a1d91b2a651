"""Save a checkpoint of the current step when training is interrupted, so that no computed step is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback


class InterruptCallback(TrainerCallback):
    """On SIGINT and the first SIGTERM, finishes the step, saves a checkpoint, and then raises KeyboardInterrupt.

    The sender sets the time limit: the supervisor kills a process that does not end in time. The last checkpoint is
    then kept.
    """

    def __init__(self, any_rank: Callable[[bool], bool]) -> None:
        """any_rank: returns whether a flag is set on any rank. All ranks must save the same step."""
        self._asked = False
        self._any_rank = any_rank

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the context. Do nothing in a thread other than the main one, which cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._any_rank(self._asked):
            self._asked = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
