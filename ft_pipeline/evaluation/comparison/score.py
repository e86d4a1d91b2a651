"""A value with its interval."""

from dataclasses import dataclass


def describe_interval(low: float | None, high: float | None, digits: int = 3, *, sign: str = "") -> str:
    """Return the bounds of an interval, or that there are none. sign: "+" also writes that of positive bounds."""
    if low is None or high is None:
        return "unknown from one conversation"
    return f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"


@dataclass(frozen=True)
class Score:
    """A metric of one row, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """The bounds are None if a single conversation was measured, which shows no spread."""

    @property
    def is_clear(self) -> bool:
        """For a lead: whether its interval is above zero."""
        return self.low is not None and self.low > 0

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval as a picture shows it: the value, if there is no interval."""
        return (self.value, self.value) if self.low is None or self.high is None else (self.low, self.high)


def describe_score(score: Score, digits: int = 3, *, sign: str = "") -> str:
    """Return a value with its interval. sign: "+" also writes that of positive numbers."""
    return f"{score.value:{sign}.{digits}f} ({describe_interval(score.low, score.high, digits, sign=sign)})"
