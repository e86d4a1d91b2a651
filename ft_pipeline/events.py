"""Events of a run for listeners in this process: steps that wait, start and end, and the progress of their jobs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ft_pipeline.pace import format_duration

logger = logging.getLogger(__name__)
EventState = Literal["waiting", "notes", "started", "built", "reused", "check failed", "failed"]
"""`check failed`: the artifact is built or reused, but one of its blocking checks failed."""
SHOWN = {"tokens_per_second": "{} tokens/s", "memory_gb": "memory {} GB"}
"""How numbers with a unit are shown."""


@dataclass(frozen=True)
class StepEvent:
    """An event of one asset (of one experiment): it waits, reports a note, starts or ends."""

    asset: str
    experiment: str | None
    state: EventState
    seconds: float = 0.0
    message: str = ""
    """Why it failed, what it waits for, or the note."""

    @property
    def ended(self) -> bool:
        return self.state not in {"waiting", "notes", "started"}

    @property
    def succeeded(self) -> bool:
        return self.state in {"built", "reused"}


@dataclass(frozen=True)
class Progress:
    """One report of a running job."""

    kind: str
    """The artifact's kind, e.g. `adapter`."""
    label: str
    """The asset and, if it has one, its experiment, e.g. `adapter [qlora]`."""
    step: int
    total: int
    values: dict[str, float] = field(default_factory=dict)
    """Numbers worth plotting: `loss`, `tokens_per_second`."""
    elapsed: float = 0.0
    """Seconds since the job began."""
    eta: float | None = None
    """Seconds left at the pace since the first report; None before the second report."""

    def line(self) -> str:
        """One line for a log: `adapter [qlora]: 120/900, 2 min 10 s left, loss 1.42, 210 tokens/s`."""
        return f"{self.label}: {', '.join(self.parts(self.eta))}"

    def parts(self, left: float | None) -> list[str]:
        """Return how far the job is, the time left (`left` seconds, if they are known), and its numbers."""
        parts = [f"{self.step:,}/{self.total:,}"]
        if left is not None and self.step < self.total:
            parts.append(f"{format_duration(left)} left")
        numbers = {name: value for name, value in self.values.items() if name != "eta_seconds"}  # `eta` shows it
        return parts + [
            SHOWN.get(name, f"{name.replace('_', ' ')} {{}}").format(_number(numbers[name])) for name in numbers
        ]


def _number(value: float) -> str:
    """Return four digits of a number, all digits of a whole part."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


EventT = TypeVar("EventT", StepEvent, Progress)
_listeners: list[tuple[type, Callable[[Any], None]]] = []
"""(type of the events, listener)."""


@contextmanager
def listening(event_type: type[EventT], listener: Callable[[EventT], None]) -> Iterator[None]:
    """Within the block, call `listener` with every event of this type in this process."""
    entry = (event_type, listener)
    _listeners.append(entry)
    try:
        yield
    finally:
        _listeners.remove(entry)


def progress_is_shown() -> bool:
    """Whether a listener in this process shows progress. The raw output of workers would break up its display."""
    return any(event_type is Progress for event_type, _ in _listeners)


def publish(event: StepEvent | Progress) -> None:
    """Send an event to its listeners. A listener that fails is logged and does not stop the job."""
    for event_type, listener in list(_listeners):
        if isinstance(event, event_type):
            try:
                listener(event)
            except Exception:
                logger.exception("a listener failed")
