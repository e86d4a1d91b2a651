"""What is shown about tuning: that it is not worth its work, or how many test conversations would tell.

A tuned model is to be used if its lead is shown to be above zero. It is not if the lead is shown to be below what a
training is worth (units.worth_over). Between the two nothing is decided: that a lead is not shown does not show
that there is none.
"""

import math
from typing import NamedTuple

from scipy.special import ndtri

from ft_pipeline.decide.claim import Claim, OpinionFacts
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.exposure import needed_lead
from ft_pipeline.decide.units import worth_over

POWER = float(ndtri(0.8))
"""A number of conversations "would decide" if it shows the lead in 80 % of the cases."""
HALF_WIDTH = float(ndtri(0.975))
"""Standard errors from a lead to the end of its 95 % interval."""
LIKELY = float(ndtri(0.95))
"""Standard errors from a lead to the end of its 90 % interval. Leads that decide nothing are more often too small than
too large: with the ends of this interval, the range covers the true number in 80 % and more (verdict_rates.py)."""


class Needed(NamedTuple):
    """A number of test conversations that would decide: its 80 % range."""

    least: int
    most: int


def is_worthless(comparison: Comparison, bar: Row) -> bool:
    """Return whether there is a tuned row, and each is shown to lead a bar by less than a training is worth: by the
    opinion that decides, or else by the upper end of its 95 % interval."""
    tuned = comparison.tuned()
    return bool(tuned) and all(_is_below(comparison, comparison.deciding(row, bar), bar) for row in tuned)


def _is_below(comparison: Comparison, claim: Claim, bar: Row) -> bool:
    if claim.kind == "opinion":
        return claim.verdict == "refuted"
    return claim.verdict != "unknown" and claim.high is not None and claim.high < worth_over(comparison, bar)


def conversations_for(lead: float, deviation: float, level: float, worth: float) -> float:
    """Return how many test conversations show in 80 % of the cases that a true lead is above zero, or that it is below
    what a training is worth: ((z(level) + z(0.8)) s / d)², or ((z(0.975) + z(0.8)) s / (worth - d))², the smaller one.

    deviation: s, the standard deviation of the lead over conversations. level: the largest p-value that counts.
    """
    gap = max(lead / (needed_lead(level) + POWER), (worth - lead) / (HALF_WIDTH + POWER))
    return (deviation / gap) ** 2


def needed_conversations(comparison: Comparison, claim: Claim, level: float, worth: float) -> Needed | None:
    """Return how many test conversations would decide about a lead, as an 80 % range; None if its spread is unknown.

    level: the largest p-value that counts. worth: the lead for which a training is worth its work. The range is that
    of `conversations_for` over a wider interval of the lead (LIKELY).
    """
    if claim.value is None or claim.low is None or claim.value <= claim.low:
        return None
    error = (claim.value - claim.low) / HALF_WIDTH
    deviation = error * math.sqrt(comparison.test_rows)
    use, no_use = needed_lead(level) + POWER, HALF_WIDTH + POWER
    ends = claim.value - LIKELY * error, claim.value + LIKELY * error
    hardest = min(max(worth * use / (use + no_use), ends[0]), ends[1])
    most, *of_ends = (conversations_for(lead, deviation, level, worth) for lead in (hardest, *ends))
    spread = 1 + 2 * LIKELY / math.sqrt(comparison.units)  # s² is an estimate, too: of rates, often too small
    now = comparison.test_rows + 1
    return Needed(*(max(now, math.ceil(number)) for number in (min(of_ends), spread * most)))


def needed_ratings(claim: Claim, level: float) -> int | None:
    """Return how many more ratings would show the preference as it is now in 80 % of the cases; None if the claim is
    not that of an opinion that is ahead, or if its spread is unknown. Below 1: as many as there are.

    level: the largest p-value that counts.
    """
    if claim.kind != "opinion" or claim.value is None or claim.low is None or not claim.is_ahead:
        return None
    error = (claim.value - claim.low) / HALF_WIDTH
    wanted = ((needed_lead(level) + POWER) * error / (claim.value - claim.limit)) ** 2
    return math.ceil(claim.told(OpinionFacts).rated * (wanted - 1))
