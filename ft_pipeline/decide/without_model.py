"""What is said of answers without a language model: a constant one, the nearest training answer, a classifier."""

from typing import Literal

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.kinds import WITHOUT_MODEL
from ft_pipeline.decide.words import ask_for_ratings
from ft_pipeline.evaluation.metrics.definitions import SECOND_KEY

OF_TEXT = ("chrf", "rouge_l")
"""Metrics that say how similar free texts are, and not which is right."""
SWITCHED_OFF = "Nothing without a language model was compared, because `evaluation.rivals` is empty."
Kind = Literal["classifier", "search", "none", "undecided"]


def without_model(comparison: Comparison) -> list[str]:
    """Return which rows have no language model, as a sentence."""
    named = [f"{row.name} ({WITHOUT_MODEL[row.kind]})" for row in comparison.rows if row.rights.without_model]
    listed = [f"Without a language model: {', '.join(named)}."] if named else []
    return [*listed, *([SWITCHED_OFF] if comparison.without_rivals else [])]


def with_model(comparison: Comparison) -> Row | None:
    """Return the best row with a language model that was tuned; without one, the best prompt."""
    return next(iter(comparison.tuned()), None) or comparison.best_prompt()


def enough(classifier: Row, why: str) -> str:
    """Return that a classifier is enough. why: by what it leads; empty if it leads no language model."""
    because = f" {why[0].upper()}{why[1:]}." if why else ""
    return f"A classifier is enough: use {classifier.name}, which needs no language model.{because}"


def instead(comparison: Comparison, bar: Row, tuned: Row | None, why: str) -> tuple[Kind, str]:
    """Return the verdict, and its sentence, where no tuned model is better than answers without a language model."""
    if bar.kind != "classifier" and tuned is not None and comparison.primary in OF_TEXT:
        return "undecided", cannot_tell(comparison, bar, tuned, comparison.primary)
    if bar.kind == "classifier":
        return "classifier", enough(bar, why)
    if bar.kind == "search":
        return "search", f"Do not fine-tune; look the answer up, as {bar.name} does: {why}."
    return "none", f"No model can be used: none is better than {bar.name}, which always gives the same answer."


def better_text(comparison: Comparison, row: Row) -> Row | None:
    """Return the answers without a language model that are the most similar to the references, if they clearly lead a
    row by the second key, where a likelihood decides; None otherwise."""
    names = [claim.rival for claim in comparison.more_similar(row)]
    return next((rival for rival in comparison.ranked(SECOND_KEY) if rival.name in names), None)


def cannot_tell(comparison: Comparison, rival: Row, row: Row, metric: str = SECOND_KEY) -> str:
    """Return that a metric of texts does not tell whether a row is good, since answers without a language model have a
    better value."""
    label = comparison.metric(metric).label
    theirs, ours = (f"{each.scores[metric].value:.3g}" for each in (rival, row))
    other = comparison.best_prompt(row) or rival
    return (
        f"Not decided yet: {label} cannot tell. {WITHOUT_MODEL[rival.kind].capitalize()} ({rival.name}) has {theirs}, "
        f"and {row.name} {ours}. Name a check of the answers (`evaluation.metrics`), or "
        f"{ask_for_ratings(comparison, row, other)}."
    )
