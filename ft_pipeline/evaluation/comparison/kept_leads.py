"""How much of the best tuned model's lead another one keeps: whether the simpler technique is as good."""

from collections.abc import Mapping

from ft_pipeline.evaluation.comparison.lead_records import KeptLead
from ft_pipeline.evaluation.comparison.leads import Estimate, bounds, values_over
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.model_kinds import TUNED

DEFAULT_SHARE = 0.8
LEVEL = 0.95
"""Of the lower bound: one-sided, because only a smaller lead matters."""


def kept_leads(
    comparison: Comparison, estimates: Mapping[str, Mapping[str, Estimate]], wanted: float
) -> list[KeptLead]:
    """Return an entry per sound tuned row other than the best one; none if the best one does not lead the baseline.

    estimates: by row, then by metric. wanted: the share of the lead that a row must be shown to keep.

    "Not clearly worse" would accept a technique that keeps 60 % of the lead in most small comparisons. The combination
    lead - wanted · best lead is a lead too: of each conversation, so that its bound needs no further assumption.
    """
    name, metric = comparison.primary_metric, comparison.metric()
    sound = [row for row in comparison.ranked() if row.kind in TUNED and row.is_sound and _is_measured(comparison, row)]
    sound = [row for row in sound if row.base_model == sound[0].base_model]  # another base has another baseline
    baseline = comparison.best_baseline(of=sound[0] if sound else None)
    if not sound or baseline is None or comparison.difference(sound[0], baseline) is None:
        return []

    values = {row.name: values_over(baseline.name, row.name, name, metric, estimates) for row in sound}
    best = values[sound[0].name]
    if best.mean() <= 0:
        return []
    return [
        KeptLead(
            row.name,
            sound[0].name,
            baseline.name,
            share=float(values[row.name].mean() / best.mean()),
            wanted=wanted,
            low=bounds(values[row.name] - wanted * best, LEVEL)[0],
        )
        for row in sound[1:]
    ]


def _is_measured(comparison: Comparison, row: ComparisonRow) -> bool:
    """Return whether the metric that decides says how far a row leads its baseline."""
    bar = comparison.best_baseline(of=row)
    return bar is None or comparison.why_no_metric(row, bar) is None
