"""What a lead is counted in for people: percent of the rival's nats, or points of right answers."""

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.evaluation.metrics.definitions import SHARE_OF_FIELDS

IN_PERCENT = ("nats_per_byte", "loss")
"""The metrics whose leads are said in percent of the rival's value."""
IN_POINTS = ("share", SHARE_OF_FIELDS)
"""The units of the metrics whose leads are said in points: shares of 100 answers, or of 100 fields."""


def lead_scale(comparison: Comparison, metric: str, rival: Row) -> float:
    """Return the factor from a lead to what a sentence says: percent of the rival's nats, or points."""
    if metric in IN_PERCENT:
        return 100 / rival.scores[metric].value
    return 100 if comparison.metric(metric).unit in IN_POINTS else 1


def lead_unit(comparison: Comparison) -> str:
    """Return what the leads are counted in, if they are multiplied by `lead_scale`."""
    metric = comparison.metric()
    if comparison.primary in IN_PERCENT:
        return "percent better at predicting people's answers"
    if metric.unit == SHARE_OF_FIELDS:
        return "points of right fields"
    return f"points ({metric.label})" if metric.unit == "share" else metric.label
