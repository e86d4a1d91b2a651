"""What comparison.json says of the lead of one row over another."""

from collections.abc import Sequence
from dataclasses import dataclass

from ft_pipeline.evaluation.comparison.score import describe_interval
from ft_pipeline_tests.version1.json_record import JsonRecord

MIN_SCREENED = 30
"""Validation conversations from which on candidates are screened."""


@dataclass(frozen=True)
class PairedDifference(JsonRecord):
    """The lead of one row over another, with its paired 95 % interval. Bounds are None as those of a Score."""

    better: str
    worse: str
    metric: str
    difference: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.low > 0


@dataclass(frozen=True)
class LeadTest(JsonRecord):
    """The one-sided test of the hypothesis that a row does not lead a rival, on the primary metric."""

    row: str
    rival: str
    p: float | None
    """None if the lead is the same in every conversation, or if there is only one: no decision."""


@dataclass(frozen=True)
class KeptLead(JsonRecord):
    """How much of the best tuned row's lead over the best baseline another tuned row has."""

    row: str
    best: str
    baseline: str
    share: float
    """The row's lead divided by the best row's."""
    wanted: float
    """The share that it must be shown to keep (PromotionSettings.keeps)."""
    low: float | None
    """Lower one-sided 95 % bound of its lead minus `wanted` times the best row's lead."""

    @property
    def is_shown(self) -> bool:
        """Whether it is shown that the row keeps the wanted share."""
        return self.low is not None and self.low > 0


@dataclass(frozen=True)
class RecipeLead(JsonRecord):
    """The lead of an experiment over a rival, over several trainings that differ only in their seed."""

    row: str
    rival: str
    trainings: int
    leads: Sequence[float]
    """Of each training, the row's own first."""
    lead: float
    """Their mean."""
    low: float | None
    """The ends of its 95 % interval, over conversations and trainings. None for two trainings."""
    high: float | None
    lower: float | None
    """Lower one-sided 95 % bound."""

    @property
    def is_shown(self) -> bool:
        """Whether the recipe leads: its lower bound is above zero."""
        return self.lower is not None and self.lower > 0

    def describe(self) -> str:
        """Return the lead with its interval."""
        if self.low is None:
            return f"{self.lead:.3f} in {self.trainings} trainings ({min(self.leads):.3f} to {max(self.leads):.3f})"
        interval = describe_interval(self.low, self.high)
        return f"{self.lead:.3f} in {self.trainings} trainings (95 %: {interval}, over seeds and conversations)"


@dataclass(frozen=True)
class AnswerCheck(JsonRecord):
    """The second key: whether the answers of a row are not worse than those of a rival."""

    row: str
    rival: str
    metric: str
    lead: float
    low: float | None
    """Lower one-sided 95 % bound of the lead."""
    margin: float
    """By how much they may be worse (PromotionSettings.answers_margin)."""

    @property
    def is_shown(self) -> bool:
        """Whether it is shown that they are not worse by more than the margin."""
        return self.low is not None and self.low > -self.margin


@dataclass(frozen=True)
class Screen(JsonRecord):
    """The lead of a row over a rival on the validation rows, in nats per byte."""

    row: str
    rival: str
    conversations: int
    lead: float
    error: float
    """Its standard error."""

    @property
    def is_passed(self) -> bool:
        """Whether the row is worth a test: it leads by a standard error, or there are too few conversations to say."""
        return self.conversations < MIN_SCREENED or (self.lead > 0 and self.lead >= self.error)
