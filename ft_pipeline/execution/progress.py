"""Progress of running jobs, for listeners in this process."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """One report of a running job."""

    kind: str
    """The artifact's kind, e.g. `adapter`."""
    label: str
    """The asset, with its experiment where it has one, e.g. `adapter [qlora]`."""
    step: int
    total: int
    values: dict[str, float] = field(default_factory=dict)
    """Numbers worth plotting: `loss`, `tokens_per_second`."""
    elapsed: float = 0.0
    """Seconds since the job began."""
    eta: float | None = None
    """Seconds left at the pace since the first report; None before the second report."""

    def line(self) -> str:
        """One line for a log: `adapter [qlora]: 120/900, loss 1.42, tokens per second 210, 2 min 10 s left`."""
        parts = [f"{self.step}/{self.total}"]
        numbers = {name: value for name, value in self.values.items() if name != "eta_seconds"}  # `eta` shows it
        parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items()]
        if self.eta is not None and self.step < self.total:
            parts.append(f"{duration(self.eta)} left")
        return f"{self.label}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Seconds in words: `48 s`, `2 min 10 s`, `3 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


Listener = Callable[[Progress], None]
_listeners: list[Listener] = []


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener` with every report of this process from now on. Call the result to unsubscribe."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener) if listener in _listeners else None


def watched() -> bool:
    """Whether a listener in this process shows progress. Raw output of workers would break up that display."""
    return bool(_listeners)


def publish(progress: Progress) -> None:
    """Send a report to every listener. A listener that fails is logged and does not stop the job."""
    for listener in list(_listeners):
        try:
            listener(progress)
        except Exception:
            logger.exception("a progress listener failed")


class Pace:
    """Elapsed and remaining seconds of one job, from its reports.

    The pace is measured from the first report, because a resumed job starts in the middle.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._first: tuple[int, float] | None = None

    def mark(self, step: int, total: int) -> tuple[float, float | None]:
        """Return (elapsed, eta) at this step, in seconds."""
        now = time.monotonic()
        if self._first is None or step < self._first[0]:
            self._first = (step, now)
        done, seconds = step - self._first[0], now - self._first[1]
        return now - self.began, (total - step) * seconds / done if done else None


class Throttle:
    """Lets one report through per interval.

    The interval grows with the job, up to a minute: a long job must not flood SQLite, nor stop logging.
    """

    def __init__(self, seconds: float, share: float = 0.01, most: float = 60.0) -> None:
        """seconds: minimum interval; share: of the time since the start, if that is longer, up to `most` seconds."""
        self.seconds = seconds
        self.share = share
        self.most = most
        self._began = time.monotonic()
        self._last = -float("inf")

    def ready(self) -> bool:
        now = time.monotonic()
        if now - self._last < max(self.seconds, min(self.most, self.share * (now - self._began))):
            return False
        self._last = now
        return True
