"""Plots of a comparison: every row's score with its 95 % interval, learning curves, and the gain per answer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ft_pipeline import small_plots
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.decide.slice_table import is_worse, slices_of
from ft_pipeline.decide.units import lead_scale, lead_unit
from ft_pipeline.evaluation.comparison.check_records import Confusion
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.plotting import BLUE, GREEN, GREY, KIND_COLORS, ORANGE, PURPLE, draw_confusion, draw_intervals, panels

MAX_LEADS = 8
"""Maximum number of usable rows in the plot of leads, and of others."""
MAX_SLICES = 25
"""Maximum number of slices in their plot."""
MAX_LABEL_CHARS = 60
LIGHT_GREY = "#B5B5B5"
CURVE_COLORS = (BLUE, GREEN, ORANGE, PURPLE, GREY)
"""The colors of the curves in one plot."""


def score_picture(comparison: Comparison) -> bytes:
    """Return a PNG of a comparison: a panel per metric, the rows in the comparison's order, best first."""
    panel_functions: list[Callable[[Any], None]] = []
    for name, metric in shown_metrics(comparison).items():
        rows = [row for row in comparison.rows if name in row.scores]
        if rows:
            panel_functions.append(
                partial(
                    draw_intervals,
                    names=[row.name for row in rows],
                    intervals=[_interval(row.scores[name]) for row in rows],
                    kinds=[row.kind for row in rows],
                    label=metric.title,
                )
            )
    return panels(panel_functions, 4.6, 0.9 + 0.28 * len(comparison.rows))


def _interval(score: Score) -> tuple[float, float, float]:
    low, high = score.ends
    return low, score.value, high


def shown_leads(comparison: Comparison, of: Row | None = None) -> tuple[Row | None, list[tuple[Row, Score]]]:
    """Return (baseline, leads over it), best first, those that are not usable last; (None, []) without a baseline.

    of: the baseline is the best use of this row's base model; default: of the best tuned row's.
    """
    best = next((row for row in comparison.tuned()), None)
    baseline = comparison.best_bar(of or best)
    if baseline is None:
        return None, []
    leads = [(row, comparison.lead_over(row, baseline)) for row in comparison.ranked() if row.name != baseline.name]
    known = [(row, lead) for row, lead in leads if lead is not None]
    usable = [entry for entry in known if comparison.usable(entry[0])]
    others = [entry for entry in known if not comparison.usable(entry[0])]
    return baseline, usable[:MAX_LEADS] + others[:MAX_LEADS]


def lead_picture(comparison: Comparison) -> bytes | None:
    """Return a PNG of the leads over the best baseline, with 95 % intervals; None if nothing is compared.

    A filled mark is a lead that is shown, a square the champion. Rows that are not usable are below, gray and crossed.
    """
    baseline, drawn = shown_leads(comparison)
    if baseline is None or not drawn:
        return None
    scale = lead_scale(comparison, comparison.primary, baseline)

    def draw(axes: Any) -> None:
        for position, (row, lead) in enumerate(drawn):
            color = KIND_COLORS.get(row.kind, GREY) if comparison.usable(row) else LIGHT_GREY
            low, high = (scale * end for end in lead.ends)
            axes.plot([low, high], [position, position], color=color, linewidth=2.5, solid_capstyle="butt")
            marker = "x" if not comparison.usable(row) else "s" if row.kind == "champion" else "o"
            inside = color if lead.is_clear or marker == "x" else "white"
            axes.plot(scale * lead.value, position, marker, color=color, markerfacecolor=inside, markersize=7)
        names = [f"{row.name}{_note(comparison, row)}" for row, _ in drawn]
        axes.axvline(0, color="black", linewidth=1)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        axes.set(
            title=f"Lead over {baseline.name}, the best without fine-tuning",
            xlabel=f"{lead_unit(comparison)}: right of 0 is better",
        )
        axes.grid(axis="y", visible=False)

    return panels([draw], 7.4, 1.2 + 0.34 * len(drawn))


def _note(comparison: Comparison, row: Row) -> str:
    if not comparison.usable(row):
        return " (not usable)"
    return " (without a language model)" if row.rights.without_model else ""


def small_lead_plot(comparison: Comparison) -> str | None:
    """Return the leads of the usable rows over the best baseline as Markdown, which the UI shows without a click; None
    if nothing is compared."""
    baseline, shown = shown_leads(comparison)
    usable = [(row, lead) for row, lead in shown if comparison.usable(row)]
    if baseline is None or not usable:
        return None
    scale = lead_scale(comparison, comparison.primary, baseline)
    leads = [
        small_plots.Lead(row.name, *(scale * value for value in (lead.ends[0], lead.value, lead.ends[1])))
        for row, lead in usable
    ]
    title = f"lead over {baseline.name}, 95 %"
    return small_plots.leads_plot(leads, title, lead_unit(comparison), "leads over the best baseline")


def slice_picture(comparison: Comparison, of: Row | None = None) -> bytes | None:
    """Return a PNG of the leads of a row in its slices, the lowest on top, with 95 % intervals; None without any.

    of: as for slices_of. The rival is the champion if there is one. A filled mark is a slice that is worse.
    """
    parts = slices_of(comparison, of)
    if parts is None or not parts.leads:
        return None
    rival, row = parts.rivals[0], parts.row
    leads = sorted(
        (lead for lead in parts.leads if lead.rival == rival), key=lambda lead: (lead.value or 0.0, lead.scope)
    )
    drawn = leads[:MAX_SLICES]

    def draw(axes: Any) -> None:
        for position, lead in enumerate(drawn):
            color = ORANGE if is_worse(lead) else BLUE
            low, high = Score(lead.value or 0.0, lead.low, lead.high).ends
            axes.plot([low, high], [position, position], color=color, linewidth=2.5, solid_capstyle="butt")
            inside = color if is_worse(lead) else "white"
            axes.plot(lead.value, position, "o", color=color, markerfacecolor=inside, markersize=6)
        axes.axvline(0, color="black", linewidth=1)
        names = [_label(f"{lead.scope} ({lead.count:,})") for lead in drawn]
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        axes.set(
            title=f"{row}: lead over {rival} in slices",
            xlabel=f"{comparison.metric().label}: right of 0 is better",
        )
        axes.grid(axis="y", visible=False)

    return panels([draw], 7.4, 1.2 + 0.28 * len(drawn))


def _label(text: str) -> str:
    """Return a text of users as a label: not too long, and without the signs that start a formula."""
    short = text if len(text) <= MAX_LABEL_CHARS else f"{text[: MAX_LABEL_CHARS - 1]}…"
    return short.replace("$", r"\$")


def learning_curve_picture(comparison: Comparison) -> bytes | None:
    """Return a PNG of the primary metric by training rows, with 95 % intervals; None without a learning curve."""
    curves, name = comparison.learning_curves, comparison.primary
    if not curves:
        return None
    metric = comparison.metric()
    rows_known = all(point.rows is not None for curve in curves for point in curve.points)

    def draw(axes: Any) -> None:
        for position, curve in enumerate(curves):
            points = [point for point in curve.points if name in point.scores]
            x_values = [point.rows if rows_known else 100 * point.share for point in points]
            scores = [point.scores[name] for point in points]
            color = CURVE_COLORS[position % len(CURVE_COLORS)]
            axes.plot(x_values, [score.value for score in scores], "o-", color=color, label=curve.row)
            low, high = zip(*(score.ends for score in scores), strict=True)
            axes.fill_between(x_values, low, high, color=color, alpha=0.15, linewidth=0)
        x_label = "training rows" if rows_known else "% of the training rows"
        axes.set(title="Learning curve", xlabel=x_label, ylabel=metric.title)
        axes.legend()

    return panels([draw], 7.0, 3.2)


def confusion_picture(confusions: Sequence[Confusion]) -> bytes | None:
    """Return a PNG with a panel per confusion matrix; None if there is none."""
    if not confusions:
        return None
    draws = [
        partial(draw_confusion, labels=matrix.labels, counts=matrix.counts, title=f"{matrix.row}, {matrix.metric}")
        for matrix in confusions
    ]
    most = max(len(matrix.labels) for matrix in confusions)
    return panels(draws, min(12.0, 3.2 + 0.35 * most), min(10.0, 2.4 + 0.25 * most))


def change_picture(gains: Sequence[float], metric: Metric) -> bytes:
    """Return a PNG with a bar per test answer, sorted by gain. Above zero it improved, below zero it regressed."""
    threshold = metric.worth_noticing

    def draw(axes: Any) -> None:
        heights = sorted(gains)
        colors = [BLUE if gain > threshold else ORANGE if gain < -threshold else GREY for gain in heights]
        axes.bar(range(len(heights)), heights, width=1.0, color=colors)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title="Gain per answer", xlabel="answers, sorted", ylabel=f"{metric.label}: gain", xticks=[])
        axes.grid(axis="x", visible=False)

    return panels([draw], 7.0, 2.6)
