"""The pace of a running job, and how often it is logged."""

import time


def duration(seconds: float) -> str:
    """Seconds in words: `48 s`, `2 min 10 s`, `3 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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
