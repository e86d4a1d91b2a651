"""Which pairs of models are worth rating: the best model of one's own, and what it would replace."""

from collections.abc import Sequence

from ft_pipeline.decide.comparison import CHAMPION, Comparison, Row
from ft_pipeline.decide.words import describe_lead
from ft_pipeline.ratings.rating_ledger import Rating

TUNED_ROWS = 2
"""Number of tuned rows that are listed: that of the verdict, then those that only ratings decide about, then the best
ones."""


def pairs_worth_rating(
    comparison: Comparison, ratings: Sequence[Rating], chosen: str | None = None
) -> list[dict[str, object]]:
    """Return candidate, rival, the lead by the metric that decides, and how many pairs were rated by somebody.

    Pairs of which one is clearly better come last: there, ratings change least. chosen: the row of the verdict.
    """
    tuned = [row for row in comparison.tuned() if comparison.usable(row)]
    tuned = sorted(tuned, key=lambda row: (row.name != chosen, not _is_undecided(comparison, row)))[:TUNED_ROWS]
    found = {(row.name, rival.name): (row, rival) for row in tuned for rival in _rivals(comparison, row)}
    listed = [_describe(comparison, row, rival, ratings) for row, rival in found.values()]
    return sorted(listed, key=lambda pair: bool(pair["clear"]))


def _is_undecided(comparison: Comparison, row: Row) -> bool:
    """Whether nothing that was measured decides between a row and some rival."""
    return any(comparison.deciding(row, rival).because == "no_evidence" for rival in _rivals(comparison, row))


def _rivals(comparison: Comparison, row: Row) -> list[Row]:
    rivals = [comparison.incumbent, comparison.row(CHAMPION), comparison.best_bar(row)]
    return [rival for rival in rivals if rival is not None and rival.name != row.name]


def _describe(comparison: Comparison, row: Row, rival: Row, ratings: Sequence[Rating]) -> dict[str, object]:
    label, lead = comparison.metric().label, comparison.ahead(row, rival)
    names = {row.name, rival.name}
    return {
        "candidate": row.name,
        "rival": rival.name,
        "rated": len({rating.item for rating in ratings if {rating.candidate, rating.rival} == names}),
        "clear": comparison.better(row, rival) or comparison.better(rival, row),
        "lead": f"{lead.row} leads by {describe_lead(lead)} ({label})" if lead else f"not comparable by {label}",
    }
