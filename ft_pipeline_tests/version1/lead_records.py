"""What comparison.json says of the lead of one row over another."""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Screen(JsonRecord):
    """The lead of a row over a rival on the validation rows, in nats per byte."""

    row: str
    rival: str
    conversations: int
    lead: float
    error: float
    """Its standard error."""
