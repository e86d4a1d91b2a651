"""What comparison.json says of slices: parts of the test conversations, each with its own lead."""

from dataclasses import dataclass

from ft_pipeline_tests.version1.json_record import JsonRecord

ENOUGH = 20
"""Conversations from which on a slice is compared. Of a smaller one, only the size is shown."""


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
