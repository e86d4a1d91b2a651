"""The comparison as a picture: every row's score and 95 % interval, one panel per metric."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ft_pipeline.evaluation.metrics import shown_metrics
from ft_pipeline.pictures import draw_intervals, panels


def score_picture(document: Mapping[str, Any]) -> bytes:
    """PNG of a comparison document: a panel per metric, the rows in the comparison's order, best first."""
    rows = document["rows"]
    draws: list[Callable[[Any], None]] = []
    for name, metric in shown_metrics(document).items():
        having = [row for row in rows if name in row["scores"]]
        if having:
            draws.append(
                partial(
                    draw_intervals,
                    names=[row["name"] for row in having],
                    scores=[row["scores"][name] for row in having],
                    kinds=[row["kind"] for row in having],
                    label=f"{metric.label} ({metric.direction})",
                )
            )
    return panels(draws, 4.6, 0.9 + 0.28 * len(rows))
