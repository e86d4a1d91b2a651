"""The pairs of answers that a judge is asked about: those of candidates and of the rivals that they must beat."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.comparison.compare import compare
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.comparison.scored_models import comparable_models
from ft_pipeline.evaluation.items import Item, make_items, read_rows, select_rows
from ft_pipeline.evaluation.model_kinds import TUNED


@dataclass(frozen=True)
class Pair:
    """The answers of a candidate and of a rival to one test item."""

    candidate: str
    rival: str
    item: Item
    answers: tuple[str, str]
    """The candidate's, the rival's."""

    @property
    def is_identical(self) -> bool:
        return self.answers[0] == self.answers[1]


def pairs_to_judge(
    inputs: Mapping[str, Path], config: Mapping[str, Any], conversations: Path, max_test_rows: int | None
) -> list[Pair]:
    """Return all pairs of answers, item by item in a fixed order, so that the first ones are a fair sample.

    inputs, config: as of compare.build_comparison. conversations: the folder of the artifact with the test rows.
    """
    rivals = rivals_by_candidate(compare(inputs, config))
    answers = _answers(inputs, config, {name for pair in rivals for name in pair})
    items = make_items(select_rows(read_rows(conversations, "test"), "test", max_test_rows))
    return [
        Pair(candidate, rival, item, (answers[candidate][item.id], answers[rival][item.id]))
        for item in sorted(items, key=lambda item: hash_of_item(item.id))
        for candidate, rival in rivals
        if item.id in answers[candidate] and item.id in answers[rival]
    ]


def first_items(pairs: Sequence[Pair], count: int | None) -> list[Pair]:
    """Return the pairs of the first items; all for None."""
    wanted = set(list(dict.fromkeys(pair.item.id for pair in pairs))[:count])
    return [pair for pair in pairs if pair.item.id in wanted]


def hash_of_item(item: str) -> str:
    """Return what test items are sorted by, so that the first N are a random sample."""
    return hashlib.sha256(item.encode()).hexdigest()


def rivals_by_candidate(comparison: Comparison) -> list[tuple[str, str]]:
    """Return (candidate, rival) of all rows that may be released and passed the screen, best first.

    The rivals are the champion, and the best use of the candidate's base model without tuning.
    """
    champions = [row for row in comparison.rows if row.kind == "champion"]
    pairs = []
    for row in _candidates(comparison):
        bar = comparison.bar_of(row)
        rivals = dict.fromkeys(rival.name for rival in (*champions, *filter(None, [bar])) if rival.name != row.name)
        pairs += [(row.name, rival) for rival in rivals]
    return pairs


def _candidates(comparison: Comparison) -> Iterator[ComparisonRow]:
    """Yield the rows that a promotion would test: one for each experiment (merged, if it can be), and prompts."""
    merged = {row.experiment for row in comparison.rows if row.kind == "merged"}
    for row in comparison.ranked():
        screen = comparison.screen(row)
        is_released = row.kind in (*TUNED, "prompt") and not (row.kind == "adapter" and row.experiment in merged)
        if is_released and row.is_usable and (screen is None or screen.is_passed):
            yield row


def _answers(inputs: Mapping[str, Path], config: Mapping[str, Any], names: set[str]) -> dict[str, dict[str, str]]:
    """Return row name → item → answer."""
    models, _ = comparable_models(inputs, config)
    return {
        model.name: {sample["item"]: sample["answer"] for sample in model.records("samples.parquet")}
        for model in models
        if model.name in names
    }
