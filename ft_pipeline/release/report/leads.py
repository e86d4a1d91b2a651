"""The leads over the best baseline, for the first screen of the report: numbers, and where a page draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.notes import describe_share
from ft_pipeline.decide.plots import shown_leads
from ft_pipeline.decide.units import lead_scale, lead_unit
from ft_pipeline.evaluation.comparison.score import Score

MARGIN = 0.04
"""Empty share of the plot at each end, so that a mark is not cut."""
Mark = Literal["clear", "open", "unusable"]
"""Filled: the lead is shown, one way or the other. Hollow: it may be chance. Crossed: the row cannot be used."""


@dataclass(frozen=True)
class LeadLine:
    """One row of the comparison. Positions are in percent of the plot's width."""

    name: str
    numbers: str
    words: str
    """What they mean."""
    mark: Mark
    is_champion: bool
    is_chosen: bool
    """Whether the verdict names it."""
    low: float
    value: float
    high: float


@dataclass(frozen=True)
class LeadPlot:
    """The lines, best first."""

    baseline: str
    unit: str
    zero: float
    """The position of no lead, in percent."""
    lines: Sequence[LeadLine]


def lead_plot(comparison: Comparison, chosen: Row | None) -> LeadPlot | None:
    """Return the leads over the best baseline of a row; None if nothing is compared. chosen: the row of the verdict."""
    baseline, rows = shown_leads(comparison, chosen)
    if baseline is None or not rows:
        return None
    ends = [end for _, lead in rows for end in lead.ends]
    first, last = min(0.0, *ends), max(0.0, *ends)
    width = (last - first) or 1.0

    def position(value: float) -> float:
        return round(100 * (MARGIN + (1 - 2 * MARGIN) * (value - first) / width), 2)

    scale = lead_scale(comparison, comparison.primary, baseline)
    lines = [
        LeadLine(
            row.name,
            _numbers(lead, scale),
            _words(comparison, row, lead),
            _mark(comparison, row, lead),
            row.kind == "champion",
            row is chosen,
            position(lead.ends[0]),
            position(lead.value),
            position(lead.ends[1]),
        )
        for row, lead in rows
    ]
    return LeadPlot(baseline.name, lead_unit(comparison), position(0.0), lines)


def _numbers(lead: Score, scale: float) -> str:
    digits = 3 if scale == 1 else 1
    low, high = lead.ends
    return f"{lead.value * scale:+.{digits}f} ({low * scale:+.{digits}f} to {high * scale:+.{digits}f})"


def _mark(comparison: Comparison, row: Row, lead: Score) -> Mark:
    if not comparison.usable(row):
        return "unusable"
    low, high = lead.ends
    return "clear" if low > 0 or high < 0 else "open"


def _words(comparison: Comparison, row: Row, lead: Score) -> str:
    if breaches := comparison.breaches(row):
        return f"cannot be used: {describe_share(breaches[0])}"
    low, high = lead.ends
    return "better" if low > 0 else "worse" if high < 0 else "may be chance"
