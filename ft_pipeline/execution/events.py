"""Events of a run's steps (waiting, started, built, …), for listeners in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

State = Literal["waiting", "notes", "started", "built", "reused", "gate failed", "failed"]


@dataclass(frozen=True)
class StepEvent:
    """One asset (of one experiment) waits, reports a note, started or ended."""

    asset: str
    experiment: str | None
    state: State
    seconds: float = 0.0
    message: str = ""
    """Why it failed, what it waits for, or what it notes."""

    @property
    def ended(self) -> bool:
        return self.state not in {"waiting", "notes", "started"}

    @property
    def succeeded(self) -> bool:
        return self.state in {"built", "reused"}


_listeners: list[Callable[[StepEvent], None]] = []


@contextmanager
def listening(listener: Callable[[StepEvent], None]) -> Iterator[None]:
    """Call `listener` with every event of this process within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def publish(event: StepEvent) -> None:
    for listener in list(_listeners):
        listener(event)
