"""Leads on the test conversations that arrived after a candidate was designed, and what each conversation says.

Who looks at the results on test rows, and then combines what seemed to help, designs for these rows. Rows that came
later cannot have been designed for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.evaluation.comparison.estimates import Estimates, estimate_samples, item_value
from ft_pipeline.evaluation.comparison.leads import bounds, distance_from_ideal, lead_values, unit_of, values_over
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.store.artifacts import Artifact

ENOUGH_FRESH = 30
"""Fresh test conversations from which on the lead on them alone is judged."""
Samples = Mapping[str, Sequence[Mapping[str, Any]]]
"""By row name, the answers of samples.parquet, sorted by item."""


def read_samples(comparison_artifact: Artifact) -> Samples:
    """Return the answers of all rows of a comparison."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in pq.read_table(comparison_artifact.path / "samples.parquet").to_pylist():
        found.setdefault(record["name"], []).append(record)
    return {name: sorted(records, key=lambda record: record["item"]) for name, records in found.items()}


def lead_on(samples: Samples, comparison: Comparison, conversations: set[str], row: str, rival: str) -> Score | None:
    """Return the lead of a row over a rival on these conversations alone, with its 95 % interval; None if unknown."""
    some = {name: [record for record in samples[name] if _key(record) in conversations] for name in (row, rival)}
    estimates, metric = _estimates(some, comparison), comparison.metric()
    if estimates is None:
        return None
    values = values_over(rival, row, comparison.primary, metric, estimates)
    return Score(float(values.mean()), *bounds(values, highest=metric.highest))


def weights_of(samples: Samples, comparison: Comparison, row: str, rival: str) -> dict[str, float]:
    """Return by conversation what it says about the lead of a row over a rival: the square of its difference. Where
    both are the same, it says nothing. Empty if the metric that decides was not measured."""
    both = {name: samples[name] for name in (row, rival)}
    estimates, metric = _estimates(both, comparison), comparison.metric()
    if estimates is None:
        return {}
    ours, theirs = (distance_from_ideal(estimates[name][comparison.primary], metric.ideal) for name in (row, rival))
    values = lead_values(ours, theirs, lower_is_better=metric.lower_is_better)  # as they are: without room for others
    keys: dict[str, set[str]] = {}
    for record in both[row]:
        if item_value(comparison.primary, record) is not None:
            keys.setdefault(unit_of(record), set()).add(_key(record))
    found: dict[str, float] = {}
    for unit, value in zip(sorted(keys), values, strict=False):  # rates have two more values, which are invented
        for key in keys[unit]:  # the conversations of a cluster share what it says
            found[key] = found.get(key, 0.0) + float(value) ** 2 / len(keys[unit])
    return found


def _key(record: Mapping[str, Any]) -> str:
    """Return what identifies the conversation of an answer."""
    key: str = record.get("question_key", record["group"])
    return key


def _estimates(samples: Samples, comparison: Comparison) -> Estimates | None:
    """Return the estimates of some rows by the metric that decides; None if it was not measured."""
    name = comparison.primary
    if not all(samples.values()):
        return None
    estimates = estimate_samples(samples, {name: comparison.metric()})
    return estimates if all(name in estimates[model] for model in samples) else None
