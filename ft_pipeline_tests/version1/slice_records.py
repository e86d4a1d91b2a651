"""What comparison.json says of slices: parts of the test conversations, each with its own lead."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ft_pipeline.evaluation.comparison.score import describe_interval
from ft_pipeline_tests.version1.json_record import JsonRecord

if TYPE_CHECKING:
    pass

ENOUGH = 20
"""Conversations from which on a slice is compared. Of a smaller one, only the size is shown."""
NAMED = 3
"""Largest number of slices that one sentence names."""


@dataclass(frozen=True)
class SliceLead(JsonRecord):
    """The lead of a row over a rival in a slice of at least ENOUGH conversations, on the primary metric."""

    row: str
    rival: str
    slice: str
    conversations: int
    """Those in which the metric is measured."""
    lead: float
    low: float | None
    """The ends of its plain 95 % interval, which is not adjusted for the number of slices."""
    high: float | None
    p: float | None
    """One-sided, of "it is not worse". None: the lead is the same in every conversation."""
    is_worse: bool
    """Whether it is worse at a false discovery rate of 5 % over all slices and rivals of the row."""
    deviation: float
    """Standard deviation of the lead over the conversations."""
    unseen: float
    """A drop of so many standard deviations would have shown in 80 % of the cases; a smaller one in fewer."""

    def describe(self, digits: int) -> str:
        """Return the lead with its interval."""
        return f"{self.lead:+.{digits}f} (95 %: {describe_interval(self.low, self.high, digits, sign='+')})"


@dataclass(frozen=True)
class SliceCheck(JsonRecord):
    """Whether a row is shown not to be worse than a rival in a slice that must hold."""

    row: str
    rival: str
    slice: str
    conversations: int
    lead: float | None
    """None for fewer than ENOUGH conversations."""
    low: float | None
    """Lower one-sided 95 % bound of the lead."""
    margin: float
    """By how much it may be worse, in units of the metric."""
    more: int | None
    """About how many more conversations would tell. None: more would hardly help, since it is behind by the margin, or
    since the metric says nothing about the two."""

    @property
    def is_shown(self) -> bool:
        """Whether it is shown that the row is not worse by more than the margin."""
        return self.low is not None and self.low > -self.margin

    def describe(self, digits: int) -> str:
        """Return what is known, as part of a sentence."""
        if not self.conversations:
            return (
                f"whether it holds in {self.slice} cannot be told: no test conversation is in this slice. Correct its "
                "rule, or add such rows"
            )
        named = f"{self.slice} ({_count(self.conversations)})"
        if self.lead is None and self.more is None:
            return (
                f"whether it holds in {named} against {self.rival} cannot be told: the likelihood says nothing about "
                "the two. Set `decides: true` for a check"
            )
        if self.lead is None or self.low is None:
            return f"whether it holds in {named} cannot be told: {ENOUGH} are needed, about {self.more} more"
        numbers = (
            f"its lead over {self.rival} is {self.lead:+.{digits}f} (at least {self.low:+.{digits}f}; "
            f"{-self.margin:.{digits}f} is the limit)"
        )
        if self.is_shown:
            return f"holds in {named}: {numbers}"
        more = "more conversations would hardly help" if self.more is None else f"about {self.more:,} more would tell"
        return f"whether it holds in {named} cannot be told: {numbers}; {more}"


def _count(conversations: int) -> str:
    return f"{conversations:,} conversation{'' if conversations == 1 else 's'}"
