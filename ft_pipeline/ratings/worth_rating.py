"""Which pairs of models are worth rating: the best model of one's own, and what it would replace."""

from collections.abc import Sequence

from ft_pipeline.evaluation.comparison.records import CHAMPION, Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.model_kinds import TUNED
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
    tuned = [row for row in comparison.ranked() if row.kind in TUNED and row.is_usable]
    tuned = sorted(tuned, key=lambda row: (row.name != chosen, not _is_undecided(comparison, row)))[:TUNED_ROWS]
    found = {(row.name, rival.name): (row, rival) for row in tuned for rival in _rivals(comparison, row)}
    listed = [_describe(comparison, row, rival, ratings) for row, rival in found.values()]
    return sorted(listed, key=lambda pair: bool(pair["clear"]))


def _is_undecided(comparison: Comparison, row: ComparisonRow) -> bool:
    """Whether nothing that was measured decides between a row and some rival."""
    return any(comparison.why_undecided(row, rival) for rival in _rivals(comparison, row))


def _rivals(comparison: Comparison, row: ComparisonRow) -> list[ComparisonRow]:
    rivals = [comparison.incumbent, comparison.row(CHAMPION), comparison.best_baseline(of=row)]
    return [rival for rival in rivals if rival is not None and rival.name != row.name]


def _describe(
    comparison: Comparison, row: ComparisonRow, rival: ComparisonRow, ratings: Sequence[Rating]
) -> dict[str, object]:
    pair = comparison.difference_between(row, rival)
    label = comparison.metric().label
    names = {row.name, rival.name}
    return {
        "candidate": row.name,
        "rival": rival.name,
        "rated": len({rating.item for rating in ratings if {rating.candidate, rating.rival} == names}),
        "clear": pair is not None and pair.is_clear,
        "lead": f"{pair.better} leads by {pair.describe()} ({label})" if pair else f"not comparable by {label}",
    }
