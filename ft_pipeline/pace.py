"""The pace of a running job, and how often it is logged."""

import time


def format_duration(seconds: float) -> str:
    """Return seconds as `48 s`, `2 min 10 s`, `2 min` or `3 h 5 min`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    unit, smaller = ("min", "s") if total < 3600 else ("h", "min")
    count, rest = divmod(total if total < 3600 else total // 60, 60)
    return f"{count} {unit} {rest} {smaller}" if rest else f"{count} {unit}"


class Pace:
    """Elapsed and remaining seconds of one job, from its reports.

    The pace is measured from the first report, because a resumed job starts in the middle.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: tuple[int, float] | None = None
        """(step, time) of the first report."""

    def update(self, step: int, total: int) -> tuple[float, float | None]:
        """Record a report; return (elapsed, remaining) seconds. At the first report, `remaining` is None."""
        now = time.monotonic()
        if self._first is None or step < self._first[0]:
            self._first = (step, now)
        first_step, first_time = self._first
        steps_since, seconds_since = step - first_step, now - first_time
        return now - self._started, (total - step) * seconds_since / steps_since if steps_since else None


class Throttle:
    """Lets one report through per interval.

    The interval grows with the running time of the job. So a long job neither floods SQLite nor stops logging.
    """

    def __init__(self, seconds: float, share: float = 0.01, max_seconds: float = 60.0) -> None:
        """The interval is `share` of the time since the start, at least `seconds` and at most `max_seconds`."""
        self.seconds = seconds
        self.share = share
        self.max_seconds = max_seconds
        self._started = time.monotonic()
        self._last = -float("inf")

    def ready(self) -> bool:
        """Whether the interval is over. If so, the next one starts."""
        now = time.monotonic()
        if now - self._last < max(self.seconds, min(self.max_seconds, self.share * (now - self._started))):
            return False
        self._last = now
        return True
