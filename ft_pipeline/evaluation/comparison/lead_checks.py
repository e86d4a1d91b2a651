"""Whether leads are more than chance, and whether answers are not worse: by a second key, and against the incumbent."""

from itertools import combinations

from ft_pipeline.evaluation.comparison.estimates import Estimates
from ft_pipeline.evaluation.comparison.lead_records import AnswerCheck, LeadTest
from ft_pipeline.evaluation.comparison.leads import Floats, bounds, p_value, values_over
from ft_pipeline.evaluation.comparison.pairing import scaled_margin
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.model_kinds import TUNED

ONE_SIDED = 0.95
"""Level of the lower bound of the second key."""


def lead_tests(comparison: Comparison, estimates: Estimates) -> list[LeadTest]:
    """Return the test of each lead of a row that may be released, on the primary metric."""
    leads = _leads(comparison, estimates, comparison.primary_metric)
    return [LeadTest(row, rival, p_value(values)) for row, rival, values in leads]


def answer_checks(
    comparison: Comparison, estimates: Estimates, second_key: str | None, margin: float
) -> list[AnswerCheck]:
    """Return the second key of each row that may be released against each row that it leads; none without one."""
    if second_key is None:
        return []
    return [
        AnswerCheck(row, rival, second_key, float(values.mean()), bounds(values, ONE_SIDED)[0], margin)
        for row, rival, values in _leads(comparison, estimates, second_key)
    ]


def incumbent_checks(comparison: Comparison, estimates: Estimates, margin: float) -> list[AnswerCheck]:
    """Return whether each row that may be released is not worse than the incumbent, by what decides between them.

    margin: see scaled_margin.
    """
    incumbent = comparison.incumbent
    if incumbent is None:
        return []
    by_metric = {check.row: check for check in _checks_by_metric(comparison, estimates, incumbent, margin)}
    by_opinion = {
        row.name: AnswerCheck(
            row.name, incumbent.name, opinion.by, opinion.win_rate - 0.5, opinion.lead_at_least, margin
        )
        for row in comparison.rows
        if (opinion := comparison.deciding_opinion(row, incumbent)) is not None
    }
    checks = by_metric | by_opinion
    return [checks[row.name] for row in comparison.rows if row.name in checks]


def _checks_by_metric(
    comparison: Comparison, estimates: Estimates, incumbent: ComparisonRow, margin: float
) -> list[AnswerCheck]:
    """Return whether rows are not worse than the incumbent on the primary metric; none if it was not measured there."""
    name, metric = comparison.primary_metric, comparison.metric()
    if name not in incumbent.scores:
        return []
    limit = scaled_margin(margin, name, incumbent.scores[name].value)
    return [
        AnswerCheck(row.name, incumbent.name, name, float(values.mean()), bounds(values, ONE_SIDED)[0], limit)
        for row in comparison.ranked()
        if row.kind in (*TUNED, "prompt", "champion") and row.name != incumbent.name and name in estimates[row.name]
        if comparison.why_no_metric(row, incumbent) is None
        for values in [values_over(incumbent.name, row.name, name, metric, estimates)]
    ]


def _leads(comparison: Comparison, estimates: Estimates, metric_name: str) -> list[tuple[str, str, Floats]]:
    """Return the values of a metric of each row that may be released over each row that it leads on the primary one."""
    metric = comparison.metric(metric_name)
    return [
        (row.name, rival.name, values_over(rival.name, row.name, metric_name, metric, estimates))
        for row, rival in combinations(comparison.ranked(), 2)
        if row.kind in (*TUNED, "prompt")
        and comparison.difference(row, rival) is not None
        and all(metric_name in estimates[name] for name in (row.name, rival.name))
    ]
