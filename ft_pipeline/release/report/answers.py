"""The answers of all models to every test item, side by side, for the report and for people who rate them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.evaluation.comparison.estimates import item_value
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.tables.formats.turns import spoken_text

MAX_ITEMS = 200
"""Maximum number of items in a report: a browser still opens a page with that many at once."""
Sample = Mapping[str, Any]
"""A row of samples.parquet: a model's answer to one test item."""
Samples = Mapping[str, Sequence[Sample]]
"""By row name, best row first: the row's samples in the order of the items."""


CHOSEN = (("a typical answer", 0.5), ("one of the good ones", 0.9), ("the worst", 0.0))
"""Which answers are shown first: their name, and their place among all gains from the lowest (0) to the highest (1)."""


def before_and_after(
    samples: Samples,
    turns: Mapping[str, Sequence[Mapping[str, Any]]],
    rows: tuple[str, str],
    gains: Sequence[float],
    describe: Callable[[Sample, Sample], str],
) -> list[dict[str, Any]]:
    """Return three test items with the answers of two rows: of the median gain, of the 90th percentile, and of the
    lowest gain. Ties are decided by the order of the items.

    describe: returns what people or a judge said of two answers.
    """
    order = sorted(range(len(gains)), key=lambda index: (gains[index], index))
    chosen = []
    for name, place in CHOSEN:
        index = order[round(place * (len(order) - 1))]
        before, after = (samples[row][index] for row in rows)
        chosen.append(
            {
                "name": name,
                "item": after["item"],
                "turns": turns_before(after, turns),
                "before": before["answer"],
                "after": after["answer"],
                "reference": after["reference"],
                "verdict": describe(before, after),
            }
        )
    return chosen


def side_by_side(
    samples: Samples,
    turns: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: tuple[str, Metric],
    gains: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Return the items for the report: at most MAX_ITEMS, those with the largest changes, in item order.

    turns: the messages of the conversations, by id. gains: from item_gains; None if nothing was tuned.
    """
    first = next(iter(samples.values()))
    return [
        {
            "turns": turns_before(first[index], turns),
            "reference": first[index]["reference"],
            "answers": [_answer(name, row_samples[index], metric[0]) for name, row_samples in samples.items()],
            **_change(gains[index] if gains is not None else None, metric[1]),
        }
        for index in _chosen_items(len(first), gains)
    ]


def _chosen_items(count: int, gains: Sequence[float] | None) -> list[int]:
    """Return the positions of the items to show, ascending: those with the largest changes, or the first ones."""
    positions = list(range(count))
    if gains is not None:
        positions.sort(key=lambda index: (-abs(gains[index]), index))
    return sorted(positions[:MAX_ITEMS])


def turns_before(sample: Sample, turns: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, str]]:
    """Return the conversation before the answer; the rendered prompt if its row has been erased since."""
    conversation, _, position = sample["item"].rpartition(":")
    if conversation not in turns:
        return [{"role": "prompt", "text": sample["prompt"]}]
    return [{"role": turn["role"], "text": spoken_text(turn)} for turn in turns[conversation][: int(position)]]


def conversations_of(store: ArtifactStore, artifact: Artifact, comparison: Comparison) -> dict[str, Any]:
    """Return the messages of the test conversations of a comparison, by id. artifact: that of the comparison."""
    scores = store.require(*artifact.inputs[comparison.rows[0].source])
    path = store.require(*scores.inputs["conversations"]).path / "rows.parquet"
    table = pq.read_table(path, columns=["id", "messages"], filters=[("split", "=", "test")])
    return {row["id"]: row["messages"] for row in table.to_pylist()}


def escape_invisible(value: Any) -> Any:
    """Return a text with invisible characters (control, change of direction) escaped; other values unchanged, and what
    a macro made of texts."""
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isprintable():
        return value
    return "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1] for character in value
    )


def _answer(name: str, sample: Sample, metric: str) -> dict[str, Any]:
    value = item_value(metric, sample)
    text = "" if value is None else f"{value:.2f}"
    return {"name": name, "text": sample["answer"], "cut": sample["finish_reason"] == "length", "value": text}


def _change(gain: float | None, metric: Metric) -> dict[str, str]:
    if gain is None:
        return {"change": "", "gain": ""}
    change = _change_kind(gain, metric.worth_noticing)
    return {"change": change, "gain": "unchanged" if change == "same" else f"{change} by {abs(gain):.2f}"}


def _change_kind(gain: float, threshold: float) -> str:
    """Return `improved`, `regressed`, or, for a change of at most `threshold`, `same`."""
    return "improved" if gain > threshold else "regressed" if gain < -threshold else "same"
