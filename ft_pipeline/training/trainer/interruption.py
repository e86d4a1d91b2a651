"""A stop that is asked for leaves a checkpoint of the step that was under way: nothing that was computed is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback


class InterruptCallback(TrainerCallback):
    """SIGINT and the first SIGTERM wait for the end of the step, save, and only then raise KeyboardInterrupt.

    Whoever asks sets the bound: the supervisor kills what has not ended in time, and the last checkpoint is kept.
    """

    def __init__(self, any_rank: Callable[[bool], bool]) -> None:
        """any_rank: whether a flag is set on any of the ranks, which must save the same step."""
        self._asked = False
        self._any_rank = any_rank

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while training; harmless in a thread, which cannot."""
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
