"""The pairs of answers that a judge is asked about, in a fixed order."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.comparison.scored_models import comparable_models
from ft_pipeline.evaluation.items import Item, make_items, read_rows, select_rows


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


def pairs_of(
    rivals: Sequence[tuple[str, str]],
    inputs: Mapping[str, Path],
    config: Mapping[str, Any],
    conversations: Path,
    max_test_rows: int | None,
) -> list[Pair]:
    """Return all pairs of answers of candidates and their rivals, item by item in a fixed order, so that the first ones
    are a fair sample.

    inputs, config: of a comparison. conversations: the folder of the artifact with the test rows.
    """
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


def _answers(inputs: Mapping[str, Path], config: Mapping[str, Any], names: set[str]) -> dict[str, dict[str, str]]:
    """Return row name → item → answer."""
    models, _ = comparable_models(inputs, config)
    return {
        model.name: {sample["item"]: sample["answer"] for sample in model.records("samples.parquet")}
        for model in models
        if model.name in names
    }
