"""What the opinions of people and of a judge mean for a promotion."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.evaluation.comparison.opinion_records import Opinion, ask_for_ratings
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow

EVIDENCE = ("people", "judge", "metric")
"""What decides between two rows, the surest first."""


def evidence_between(comparison: Comparison, row: ComparisonRow, rival: ComparisonRow) -> int:
    """Return what decides between two rows, as a place in EVIDENCE."""
    opinion = comparison.deciding_opinion(row, rival)
    return EVIDENCE.index(opinion.by if opinion else "metric")


def decided_by(comparison: Comparison, row: ComparisonRow, rival: ComparisonRow) -> str:
    """Return the name of what decides between two rows: people, a judge, two keys, or a metric."""
    if (opinion := comparison.deciding_opinion(row, rival)) is not None:
        return opinion.by
    return "two keys" if comparison.answer_checks else comparison.primary_metric


def who_decided(evidence: Mapping[str, Any]) -> list[str]:
    """Return what decided against each rival, as sentences. evidence: that of a champion's record, which may be older
    and not say it."""
    opinions = {(entry["rival"], entry["by"]): Opinion.from_json(entry) for entry in evidence.get("opinions", [])}
    sentences = []
    for rival, decided in evidence.get("decided_by", {}).items():
        opinion = opinions.get((rival, decided))
        by_metric = "two keys decided" if decided == "two keys" else f"the metric {decided} decided"
        sentences.append(f"Against {rival}, {by_metric if opinion is None else _decision_of(opinion)}.")
    return sentences


def _decision_of(opinion: Opinion) -> str:
    alpha = f"; agreement {opinion.alpha.describe()}" if opinion.alpha else ""
    return f"the decision was that of {opinion.who}{alpha}"


def describe_win(opinion: Opinion) -> str:
    """Return how clearly a row is preferred, as a clause without its name."""
    return f"is {opinion.describe()} by {opinion.who}"


def missing_preference(opinion: Opinion, level: float, tries: str) -> str | None:
    """Return why an opinion does not show that a row is better; None if it does.

    level: the largest p-value that counts. tries: the tests because of which it is so small.
    """
    if not opinion.is_clear_win:
        doubt = "" if opinion.is_clear_loss else ", and half may be the truth"
        return f"{describe_win(opinion)}{doubt}"
    if opinion.p is None or opinion.p > level:
        p_value = "unknown" if opinion.p is None else f"{opinion.p:.2g}"
        return (
            f"{describe_win(opinion)}, but with {tries} that may be luck: its p-value is {p_value}, and at most "
            f"{level:.2g} is wanted"
        )
    return None


def unheard_loss(comparison: Comparison, row: ComparisonRow, rival: ComparisonRow) -> str | None:
    """Return that people must be asked first; None if not.

    That is so if the rival is clearly preferred by a judge that may not decide, or by too few people.
    """
    opinions = comparison.opinions_on(row, rival)
    for opinion in opinions:
        if opinion.is_unheard_loss:
            ask = ask_for_ratings(row.name, rival.name, opinions)
            return f"{describe_win(opinion)}. That is not confirmed ({opinion.because}): {ask}"
    return None
