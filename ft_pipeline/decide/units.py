"""What a lead is counted in for people, and how it is said: percent of the rival's nats, or points of right answers."""

import math

from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.likelihood_evidence import LIKELIHOODS
from ft_pipeline.decide.sentences import describe_lead, describe_prices
from ft_pipeline.evaluation.metrics.definitions import SHARE_OF_FIELDS

IN_PERCENT = ("nats_per_byte", "loss")
"""The metrics whose leads are said in percent of the rival's value."""
IN_POINTS = ("share", SHARE_OF_FIELDS)
"""The units of the metrics whose leads are said in points: shares of 100 answers, or of 100 fields."""

RIGHT = {
    "exact_match": "are exact",
    "fields_match": "have the right fields",
    "format_valid": "have the right format",
    "call_names": "call the right tools",
    "call_arguments": "have the right calls",
    "call_order": "have the right calls in their order",
}
WORTH, WORTH_OF_LIKELIHOODS = 0.02, 0.01
"""Leads for which a training is worth its work, unless the project says otherwise."""


def scaled(comparison: Comparison, margin: float, rival: Row) -> float:
    """Return a margin in units of the primary metric: relative for likelihoods, of 100 for chrF, else absolute."""
    if comparison.primary == "chrf":
        return 100 * margin
    return margin * abs(rival.scores[comparison.primary].value) if comparison.primary in LIKELIHOODS else margin


def worth_over(comparison: Comparison, bar: Row) -> float:
    """Return the lead over a bar for which a training is worth its work, in units of the primary metric."""
    default = WORTH_OF_LIKELIHOODS if comparison.primary in LIKELIHOODS else WORTH
    return scaled(comparison, default if comparison.worth is None else comparison.worth, bar)


def lead_scale(comparison: Comparison, metric: str, rival: Row) -> float:
    """Return the factor from a lead to what a sentence says: percent of the rival's nats, or points."""
    if metric in IN_PERCENT:
        return 100 / rival.scores[metric].value
    return 100 if comparison.metric(metric).unit in IN_POINTS else 1


def lead_in_words(comparison: Comparison, lead: Claim, rival: Row) -> str:
    """Return a lead on the primary metric with its interval: in percent of the rival's nats, points, or a number."""
    scale = lead_scale(comparison, comparison.primary, rival)
    ends = (
        "" if lead.low is None or lead.high is None else f" (95 %: {_to(lead.low * scale)} to {_to(lead.high * scale)})"
    )
    return f"{_to((lead.value or 0.0) * scale)}{_unit(comparison)}{ends}"


def worth_in_words(comparison: Comparison, bar: Row) -> str:
    """Return the lead over a bar that is worth a training."""
    scale = lead_scale(comparison, comparison.primary, bar)
    return f"{worth_over(comparison, bar) * scale:.3g}{_unit(comparison)}"


def _to(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"


def _unit(comparison: Comparison) -> str:
    if comparison.primary in IN_PERCENT:
        return " %"
    return " points" if comparison.metric().unit in IN_POINTS else ""


def rounded(number: int) -> str:
    """Return a number with two digits that count: it is an estimate."""
    step = 10 ** max(0, len(str(number)) - 2)
    return f"{math.ceil(number / step) * step:,}"


def lead_unit(comparison: Comparison) -> str:
    """Return what the leads are counted in, if they are multiplied by `lead_scale`."""
    metric = comparison.metric()
    if comparison.primary in IN_PERCENT:
        return "percent better at predicting people's answers"
    if metric.unit == SHARE_OF_FIELDS:
        return "points of right fields"
    return f"points ({metric.label})" if metric.unit == "share" else metric.label


def label(comparison: Comparison, check: Claim) -> str:
    """Return what a claim measures: a metric, or the preference of people or of a judge."""
    preference = {"people": "people's preference", "judge": "the judge's preference"}
    return preference.get(check.measure) or comparison.metric(check.measure).label


def numbers_of(check: Claim, digits: int) -> str:
    """Return the value of a claim that a row is not worse, with its bound."""
    low = "unknown" if check.low is None else f"{check.low:.{digits}f}"
    return f"{check.value:+.{digits}f} (at least {low}; {check.limit:.{digits}g} is the limit)"


def replaces(comparison: Comparison, own: Row, incumbent: Row) -> Claim | None:
    """Return the claim that a model is not worse than what answers today; None if nothing compares them."""
    return next(iter(comparison.about(own, "replaces", rival=incumbent.name)), None)


def beside_incumbent(comparison: Comparison, own: Row, incumbent: Row) -> str:
    """Return how a model compares with what answers today, as sentences; empty if nothing compares them."""
    check = replaces(comparison, own, incumbent)
    if check is None:
        return ""
    how = "is not worse than" if check.holds else "is not shown to be as good as"
    return f"{own.name} {how} {with_end(incumbent)}: {numbers_beside(comparison, check, own, incumbent)}"


def with_end(incumbent: Row) -> str:
    """Return the name of what answers today, with the day on which it ends."""
    return incumbent.name + (f", which ends on {incumbent.ends}" if incumbent.ends else "")


def numbers_beside(comparison: Comparison, check: Claim, own: Row, incumbent: Row) -> str:
    """Return by how much a model leads what answers today, and what both cost, as sentences."""
    return f"{label(comparison, check)}: {numbers_of(check, 3)}.{describe_prices(own, incumbent)}"


def describe_calls(row: Row, other: Row) -> str:
    """Return what the answers of two rows cost, or else how long they take, as a further sentence; empty if that is
    unknown, or the same."""
    costs = [None if cost is None else f"{cost:,.2f}" for cost in (row.cost_per_1000, other.cost_per_1000)]
    if None not in costs:
        return f" 1,000 answers of {row.name} cost {costs[0]}, of {other.name} {costs[1]}." if len({*costs}) > 1 else ""
    times = [None if time is None else f"{time:.2g} s" for time in (row.seconds_per_call, other.seconds_per_call)]
    if None in times or len({*times}) == 1:
        return ""
    return f" An answer of {row.name} takes {times[0]}, of {other.name} {times[1]}."


def _range(claim: Claim, scale: float) -> str:
    return "" if claim.low is None or claim.high is None else f" ({claim.low * scale:.0f} to {claim.high * scale:.0f})"


def in_words(comparison: Comparison, row: Row, lead: Claim) -> str:
    """Return the lead of a row in words: percent of the nats that are saved, points of right answers, or a number."""
    metric, rival = comparison.metric(lead.measure), comparison.row(lead.rival)
    value = lead.value or 0.0
    if lead.measure in IN_PERCENT and rival is not None:
        scale = lead_scale(comparison, lead.measure, rival)
        checked = any(check.holds for check in comparison.about(row, "answers"))
        same = ", and its own answers are at least as similar to them" if checked else ""
        saved = f"{value * scale:.0f} %{_range(lead, scale)}"
        return f"it predicts the answers that people wrote {saved} better than {lead.rival}{same}"
    if metric.unit in IN_POINTS and not metric.lower_is_better and rival is not None:
        own, other = (f"{each.scores[lead.measure].value * 100:.0f} %" for each in (row, rival))
        what = f"its {'fields' if metric.unit == SHARE_OF_FIELDS else 'answers'} {RIGHT.get(lead.measure, 'are right')}"
        points = f"a lead of {value * 100:.0f} points{_range(lead, 100)}"
        return f"{own} of {what}, and {other} of those of {lead.rival}: {points}"
    return f"it leads {lead.rival} by {describe_lead(lead)} on {metric.label}"
