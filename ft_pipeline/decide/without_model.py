"""What is said of answers without a language model: a constant one, the nearest training answer, a classifier;
and of how far such rivals and prompts were looked for."""

from typing import Literal

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.kinds import WITHOUT_MODEL
from ft_pipeline.decide.sentences import ask_for_ratings
from ft_pipeline.evaluation.metrics.definitions import SECOND_KEY
from ft_pipeline.evaluation.model_kinds import BASELINES

OF_TEXT = ("chrf", "rouge_l")
"""Metrics that say how similar free texts are, and not which is right."""
SWITCHED_OFF = "Nothing without a language model was compared, because `evaluation.rivals` is empty."
NOT_SEARCHED = "No prompt was searched."
Kind = Literal["classifier", "search", "none"]


def without_model(comparison: Comparison) -> list[str]:
    """Return which rows have no language model, as a sentence."""
    named = [f"{row.name} ({WITHOUT_MODEL[row.kind]})" for row in comparison.rows if row.rights.without_model]
    listed = [f"Without a language model: {', '.join(named)}."] if named else []
    return [*listed, *([SWITCHED_OFF] if comparison.without_rivals else [])]


def how(row: Row) -> str:
    """Return what to do with answers without a language model."""
    if row.kind == "search":
        return f"look the answer up, as {row.name} does"
    return f"use {row.name}, {WITHOUT_MODEL[row.kind]}"


def instead(bar: Row, why: str) -> tuple[Kind, str]:
    """Return the verdict, and its sentence, where each tuned model is shown to lead answers without a language model by
    less than a training is worth. why: its lead, as sentences without the last full stop."""
    if bar.kind == "classifier":
        return "classifier", f"A classifier is enough: use {bar.name}, which needs no language model: {why}."
    if bar.kind == "search":
        return "search", f"Do not fine-tune; {how(bar)}: {why}."
    return "none", f"No model can be used: none is better than {bar.name}, which always gives the same answer."


def misleads(comparison: Comparison, row: Row, bar: Row) -> Row | None:
    """Return answers without a language model that show that the metric says nothing about free texts: they lead by the
    metric that decides, or clearly by the second key where a likelihood decides. None otherwise."""
    if bar.rights.without_model and bar.kind != "classifier" and comparison.primary in OF_TEXT:
        return bar
    names = [claim.rival for claim in comparison.more_similar(row)] if comparison.sound(row) else []
    return next((rival for rival in comparison.ranked(SECOND_KEY) if rival.name in names), None)


def cannot_tell(comparison: Comparison, rival: Row, row: Row) -> str:
    """Return that a metric of texts does not tell whether a row is good, since answers without a language model have a
    better value. Without the last full stop."""
    metric = comparison.primary if comparison.primary in OF_TEXT else SECOND_KEY
    label = comparison.metric(metric).label
    theirs, ours = (f"{each.scores[metric].value:.3g}" for each in (rival, row))
    other = comparison.best_prompt(row) or rival
    told, rate = ours, f", or {ask_for_ratings(comparison, row, other)}"
    if comparison.why_screened_out(row):  # nobody sees its answers
        told, rate = "less", ""
    return (
        f"{label} cannot tell. {WITHOUT_MODEL[rival.kind].capitalize()} ({rival.name}) has {theirs}, and {row.name} "
        f"{told}. Name a check of the answers (`evaluation.metrics`){rate}"
    )


def what_was_tried(comparison: Comparison) -> list[str]:
    """Return how far the rivals of a tuned model were looked for: whether a prompt was searched, and whether there are
    answers without a language model."""
    searched = [NOT_SEARCHED] if any(row.kind in BASELINES for row in comparison.rows) else []
    if tried := comparison.prompts_tried:
        searched = [f"The best of {tried:,} prompts that were tried is compared."]
    return [*searched, *([SWITCHED_OFF] if comparison.without_rivals else [])]
