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

    def __init__(self, is_set_on_any: Callable[[bool], bool]) -> None:
        """is_set_on_any: returns whether a flag is set on any rank. All ranks must save the same step."""
        self._interrupted = False
        self._is_set_on_any = is_set_on_any

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle the signals inside the context. Only the main thread can; in another one, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous_handlers = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._is_set_on_any(self._interrupted):
            self._interrupted = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
