"""Leads in slices of the test conversations, and whether a row is worse in one of them.

With twelve slices in which nothing differs, some slice looks worse at the usual level in a quarter of the comparisons.
So a slice is called worse only at a false discovery rate of 5 % over all slices (Benjamini and Hochberg 1995). Slices
promote nothing. They prevent a promotion only if that was declared before, with a margin.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from ft_pipeline.evaluation.comparison.estimates import Estimates, Samples, estimate_samples
from ft_pipeline.evaluation.comparison.leads import (
    Floats,
    bounds,
    difference,
    distance_from_ideal,
    p_value,
    values_over,
)
from ft_pipeline.evaluation.comparison.pairing import scaled_margin
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.comparison.slice_members import SliceMembers
from ft_pipeline.evaluation.comparison.slice_records import ENOUGH, Slice, SliceCheck, SliceLead
from ft_pipeline.evaluation.model_kinds import TUNED

FALSE_DISCOVERIES = 0.05
"""Wanted share of slices that are called worse and are not."""
ONE_SIDED = 0.95
"""Level of the lower bound of what must hold."""
POWER = float(ndtri(0.8))
"""A drop "would have shown" if it does so in 80 % of the cases."""
MOST_ROWS = 10
"""Largest number of rows whose slices are shown, the best first."""


class Finding(NamedTuple):
    """What the test of one slice says. Fields as in SliceLead."""

    p: float | None
    is_worse: bool
    deviation: float
    unseen: float


class SliceResults(NamedTuple):
    """What a comparison says of slices."""

    slices: list[Slice]
    slice_leads: list[SliceLead]
    slice_checks: list[SliceCheck]


def compare_slices(
    comparison: Comparison,
    slices: Sequence[SliceMembers],
    samples: Samples,
    rules: Mapping[str, Mapping[str, Any]],
) -> SliceResults:
    """Return the leads in slices of the rows that may be released, over the champion and their bars.

    slices: in their order. samples: the records of every row. rules: `evaluation.slices` as JSON.
    """
    by_slice = {
        members.name: _Measured(comparison, samples, members) for members in slices if len(members.members) >= ENOUGH
    }
    leads = [lead for row in _shown_rows(comparison) for lead in _leads_of(comparison, row, by_slice)]
    sizes = {members.name: len(members.members) for members in slices}
    must_hold = {name: rule["margin"] for name, rule in rules.items() if rule.get("must_hold")}
    checks = [
        _check(comparison, pair, name, margin, sizes[name], by_slice.get(name))
        for name, margin in must_hold.items()
        for pair in _pairs(comparison)
    ]
    listed = [Slice(members.name, members.kind, members.about, len(members.members)) for members in slices]
    return SliceResults(listed, leads, checks)


class _Measured:
    """The primary metric in one slice."""

    def __init__(self, comparison: Comparison, samples: Samples, members: SliceMembers) -> None:
        self._metric, self._name = comparison.metric(), comparison.primary_metric
        inside = {
            row.name: [sample for sample in samples[row.name] if sample["group"] in members.members]
            for row in comparison.ranked()
        }
        self._estimates: Estimates = estimate_samples(inside, [self._name])
        measured = next(iter(self._estimates.values())).get(self._name)
        self.conversations = 0 if measured is None else len(measured.influence)
        """Those in which the metric is measured: calls of tools are in few."""

    def values(self, row: str, rival: str) -> Floats:
        """Return the values of the lead of a row over a rival, one per conversation."""
        return values_over(rival, row, self._name, self._metric, self._estimates)

    def lead(self, row: str, rival: str) -> tuple[float, float | None, float | None]:
        """Return the lead with its 95 % interval."""
        ours, theirs = (
            distance_from_ideal(self._estimates[name][self._name], self._metric.ideal) for name in (row, rival)
        )
        return difference(ours, theirs, lower_is_better=self._metric.lower_is_better)


def judge_slices(values: Sequence[Floats]) -> list[Finding]:
    """Return what the tests of several slices say, each from the values of the lead in its conversations."""
    from scipy.stats import false_discovery_control  # half a second, which most processes that read slices need not pay

    if not values:
        return []
    p_values = [p_value(-of_slice) for of_slice in values]
    adjusted = false_discovery_control([1.0 if p is None else p for p in p_values])
    return [
        Finding(p, bool(share <= FALSE_DISCOVERIES), float(of_slice.std(ddof=1)), _unseen(len(of_slice), len(values)))
        for p, share, of_slice in zip(p_values, adjusted, values, strict=True)
    ]


def _unseen(conversations: int, tests: int) -> float:
    """Return the drop, in standard deviations, that is called worse in 80 % of the cases if nothing else is worse."""
    needed = float(stdtrit(conversations - 1, 1 - FALSE_DISCOVERIES / tests))
    return (needed + POWER) / math.sqrt(conversations)


def _shown_rows(comparison: Comparison) -> list[ComparisonRow]:
    """Return the rows that may be released, best first. Of a tuned model, the merged form if there is one."""
    merged = {row.experiment for row in comparison.rows if row.kind == "merged"}
    rows = [row for row in comparison.ranked() if row.kind in (*TUNED, "prompt")]
    return [row for row in rows if row.kind != "adapter" or row.experiment not in merged][:MOST_ROWS]


def _leads_of(comparison: Comparison, row: ComparisonRow, by_slice: Mapping[str, _Measured]) -> Iterator[SliceLead]:
    """Yield the leads of one row. Its slices and rivals are one family of tests."""
    tests = [
        (rival.name, name, measured, measured.values(row.name, rival.name))
        for rival in _rivals(comparison, row)
        for name, measured in by_slice.items()
        if measured.conversations >= ENOUGH
    ]
    findings = judge_slices([values for *_, values in tests])
    for (rival, name, measured, _), found in zip(tests, findings, strict=True):
        yield SliceLead(
            row.name, rival, name, measured.conversations, *measured.lead(row.name, rival), **found._asdict()
        )


def _rivals(comparison: Comparison, row: ComparisonRow) -> list[ComparisonRow]:
    """Return the champion and the row's bar, as far as they can be paired with it. A row is no rival of itself, and the
    champion none of the row that became it."""
    rows = [*(entry for entry in comparison.rows if entry.kind == "champion"), comparison.bar_of(row)]
    rivals = {rival.name: rival for rival in rows if rival is not None and rival.scores != row.scores}
    return [rival for rival in rivals.values() if comparison.difference_between(row, rival) is not None]


def _pairs(comparison: Comparison) -> Iterable[tuple[ComparisonRow, ComparisonRow]]:
    """Return each row that may be released with each row that can be its rival: which one is, the decision says."""
    return [
        (row, rival)
        for row in comparison.ranked()
        for rival in comparison.ranked()
        if row.kind in (*TUNED, "prompt")
        and rival.kind in (*TUNED, "prompt", "base", "champion")
        and row.name != rival.name
        and (comparison.difference_between(row, rival) or comparison.why_no_metric(row, rival)) is not None
    ]


def _check(
    comparison: Comparison,
    pair: tuple[ComparisonRow, ComparisonRow],
    name: str,
    margin: float,
    size: int,
    measured: _Measured | None,
) -> SliceCheck:
    """Return whether a slice holds for a row against a rival."""
    row, rival = pair
    limit = scaled_margin(margin, comparison.primary_metric, rival.scores[comparison.primary_metric].value)
    count = size if measured is None else measured.conversations
    if comparison.why_no_metric(row, rival) is not None:
        return SliceCheck(row.name, rival.name, name, count, None, None, limit, None)
    if measured is None or count < ENOUGH:
        return SliceCheck(row.name, rival.name, name, count, None, None, limit, ENOUGH - count)
    values = measured.values(row.name, rival.name)
    lead, low = float(np.mean(values)), bounds(values, ONE_SIDED)[0]
    return SliceCheck(row.name, rival.name, name, count, lead, low, limit, _more(values, lead + limit))


def _more(values: Floats, distance: float) -> int | None:
    """Return about how many more conversations would show in 80 % of the cases that the lead is above the limit.

    distance: from the limit to the lead. None: the lead is not above it.
    """
    if distance <= 0:
        return None
    wanted = ((float(ndtri(ONE_SIDED)) + POWER) * float(values.std(ddof=1)) / distance) ** 2
    return max(1, math.ceil(wanted - len(values)))
