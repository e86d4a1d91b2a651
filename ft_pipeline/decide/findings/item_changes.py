"""How the answers to the test items changed, from the best baseline to the best tuned model."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.evaluation.comparison.estimates import Samples, item_value
from ft_pipeline.evaluation.comparison.result_records import Changes, ItemChange, ScoredAnswer
from ft_pipeline.evaluation.metrics.definitions import Metric

WORST = 5
"""Maximum number of regressions in the document, the worst first."""


def item_changes(comparison: Comparison, samples: Samples) -> Changes | None:
    """Return improvements and regressions per test item, from the best baseline to the best tuned model that was not
    screened out.

    None if either is missing, or if no pair of them is compared by this metric.
    """
    metric, metric_name = comparison.metric(), comparison.primary
    tuned = [row for row in comparison.tuned() if comparison.why_screened_out(row) is None]
    with_bars = [(row, bar) for row in tuned if (bar := comparison.best_bar(row)) is not None]
    best = next((pair for pair in with_bars if not comparison.is_silent(*pair)), None)
    if best is None:
        return None
    after, before = (row.name for row in best)
    pairs = zip(samples[before], samples[after], strict=True)
    changes = [_change(metric, metric_name, old, new) for old, new in pairs]
    threshold = metric.worth_noticing
    changes.sort(key=lambda change: (change.gain, change.item))
    return Changes(
        before=before,
        after=after,
        metric=metric_name,
        improved=sum(change.gain > threshold for change in changes),
        unchanged=sum(abs(change.gain) <= threshold for change in changes),
        regressed=sum(change.gain < -threshold for change in changes),
        worst=[change for change in changes[:WORST] if change.gain < -threshold],
    )


def _change(metric: Metric, metric_name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> ItemChange:
    """Return the change of one test item. old, new: its samples before and after tuning."""
    before, after = (
        ScoredAnswer(value=item_value(metric_name, sample) or 0.0, answer=sample["answer"]) for sample in (old, new)
    )
    gain = metric.gain(before.value, after.value)
    return ItemChange(
        item=new["item"], gain=gain, prompt=new["prompt"], reference=new["reference"], before=before, after=after
    )
