"""The comparison as pictures: every row's score and 95 % interval; what tuning changed, answer by answer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ft_pipeline.evaluation.metrics import Metric, shown_metrics
from ft_pipeline.pictures import BLUE, GREY, ORANGE, draw_intervals, panels


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


def change_picture(gains: Sequence[float], metric: Metric) -> bytes:
    """PNG: a bar per test answer, sorted by its gain; above zero it improved, below it regressed."""
    least = metric.worth_noticing

    def draw(axes: Any) -> None:
        heights = sorted(gains)
        colors = [BLUE if gain > least else ORANGE if gain < -least else GREY for gain in heights]
        axes.bar(range(len(heights)), heights, width=1.0, color=colors)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title="Gain per answer", xlabel="answers, sorted", ylabel=f"{metric.label}: better by", xticks=[])
        axes.grid(axis="x", visible=False)

    return panels([draw], 7.0, 2.6)
