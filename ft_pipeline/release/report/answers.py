"""The answers of all models to every test item, side by side, for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.evaluation.comparison.compare import item_value
from ft_pipeline.evaluation.comparison.records import Changes
from ft_pipeline.evaluation.metrics.definitions import Metric

MOST_ITEMS = 200
"""Maximum number of items in a report: a browser still opens it at once."""
Sample = Mapping[str, Any]
Samples = Mapping[str, Sequence[Sample]]
"""By row name, best row first: its samples in the order of the items."""


def gains(samples: Samples, changes: Changes, metric: Metric) -> list[float]:
    """Return the gain per item, from the best baseline to the best tuned row."""
    pairs = zip(samples[changes.before], samples[changes.after], strict=True)
    return [_gain(metric, _value(changes.metric, old), _value(changes.metric, new)) for old, new in pairs]


def side_by_side(
    samples: Samples,
    turns: Mapping[str, Sequence[Mapping[str, str]]],
    metric: tuple[str, Metric],
    gained: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Return the items for the report: at most MOST_ITEMS, those with the largest changes, in item order.

    turns: the messages of a conversation by its id. gained: see gains; None if nothing was tuned.
    """
    first = next(iter(samples.values()))
    return [
        {
            "turns": _turns(first[index], turns),
            "reference": first[index]["reference"],
            "answers": [_answer(name, of_row[index], metric[0]) for name, of_row in samples.items()],
            **_change(gained[index] if gained is not None else None, metric[1]),
        }
        for index in _chosen(len(first), gained)
    ]


def change_of(gain: float, least: float) -> str:
    """Return `improved`, `regressed`, or `same` for a change of at most `least`."""
    return "improved" if gain > least else "regressed" if gain < -least else "same"


def _chosen(count: int, gained: Sequence[float] | None) -> list[int]:
    order = sorted(range(count), key=lambda index: (-abs(gained[index]), index)) if gained is not None else range(count)
    return sorted(list(order)[:MOST_ITEMS])


def _turns(sample: Sample, turns: Mapping[str, Sequence[Mapping[str, str]]]) -> list[dict[str, str]]:
    """Return the conversation before the answer; the rendered prompt if its row was erased since."""
    talk, _, position = sample["item"].rpartition(":")
    if talk not in turns:
        return [{"role": "prompt", "text": sample["prompt"]}]
    return [{"role": turn["role"], "text": turn["content"]} for turn in turns[talk][: int(position)]]


def _answer(name: str, sample: Sample, metric: str) -> dict[str, Any]:
    value = _value(metric, sample)
    shown = "" if value is None else f"{value:.2f}"
    return {"name": name, "text": sample["answer"], "cut": sample["finish_reason"] == "length", "value": shown}


def _change(gain: float | None, metric: Metric) -> dict[str, str]:
    if gain is None:
        return {"change": "", "gain": ""}
    change = change_of(gain, metric.worth_noticing)
    words = {"same": "unchanged"}.get(change, f"{change} by {abs(gain):.2f}")
    return {"change": change, "gain": words}


def _value(metric: str, sample: Sample) -> float | None:
    """Return the metric of one answer; None if it is unknown (a hosted teacher's loss)."""
    return None if metric == "loss" and sample["loss_sum"] is None else item_value(metric, sample)


def _gain(metric: Metric, old: float | None, new: float | None) -> float:
    assert old is not None and new is not None  # both are rows of models that were scored here
    return metric.rank_key(old) - metric.rank_key(new)
