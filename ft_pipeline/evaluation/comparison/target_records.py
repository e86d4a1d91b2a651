"""What comparison.json says of the held-out target of a training."""

from pydantic import BaseModel

OWN_TARGETS = (
    "Own targets: what each training was to improve, on its held-out rows, before the first step and at the best one."
)
"""What a table of own targets shows."""
_DIGITS = 3
"""Decimals of a value that is no share."""


class OwnTarget(BaseModel, frozen=True):
    """A measure that a training was to improve, on its held-out rows: before the first step, and at the step that is
    kept."""

    experiment: str
    objective: str
    label: str
    """How a sentence about the target begins, such as "Held-out loss"."""
    unit: str
    """After a value. `share`: it is shown in percent."""
    lower_is_better: bool
    conversations: int
    before: float
    after: float
    gain: float
    """Positive: it improved."""
    low: float | None
    """The ends of the 95 % interval of the gain, over conversations. None for one conversation."""
    high: float | None

    @property
    def has_improved(self) -> bool:
        """Whether the interval of the gain is above zero."""
        return self.low is not None and self.low > 0

    @property
    def verdict(self) -> str:
        """What the interval shows, after the name of the experiment."""
        if self.has_improved:
            return "improved its own target"
        is_worse = self.high is not None and self.high < 0
        return "got worse at its own target" if is_worse else "is not shown to improve its own target"

    @property
    def values(self) -> str:
        """The value before and after."""
        before, after = (
            f"{100 * value:.0f} %" if self.unit == "share" else f"{value:.{_DIGITS}f}"
            for value in (self.before, self.after)
        )
        unit = f" {self.unit}" if self.unit not in ("", "share") else ""
        return f"{before} → {after}{unit}"

    @property
    def change(self) -> str:
        """The change with its interval. Its sign is that of the measure, so that a lower loss is negative."""
        sign = -1 if self.lower_is_better else 1
        ends = (self.low, self.high) if sign > 0 else (self.high, self.low)
        known = [sign * end for end in ends if end is not None]
        points = " points" if self.unit == "share" else ""
        interval = " to ".join(map(self._number, known)) or "unknown from one conversation"
        return f"{'+' if sign * self.gain >= 0 else ''}{self._number(sign * self.gain)}{points} ({interval})"

    def describe(self) -> str:
        """Return the values and the change as a sentence."""
        return f"{self.label}: {self.values}, {self.change}."

    def _number(self, value: float) -> str:
        return f"{100 * value:.0f}" if self.unit == "share" else f"{value:.{_DIGITS}f}"
