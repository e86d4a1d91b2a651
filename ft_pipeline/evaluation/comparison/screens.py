"""The screen: leads on the validation rows, so that the test rows are not used up by candidates that are no better.

Only likelihoods are compared there. Everyone may try things on the validation rows; they decide nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ft_pipeline.evaluation.comparison.lead_records import Screen
from ft_pipeline.evaluation.comparison.leads import Conversations, Estimate, interval, lead_values
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.model_kinds import TUNED

Records = dict[str, dict[str, Any]]
"""The records of validation.parquet of a model, by item."""


def screen_candidates(comparison: Comparison, models: Sequence[ScoredModel]) -> list[Screen]:
    """Return the screen of each row that may be released: its lead over the champion, or else over its bar.

    A row has none if it, or its rival, has no likelihoods on the validation rows, or if these are no evidence.
    """
    records = {model.name: _records(model) for model in models}
    champion = next((row for row in comparison.rows if row.kind == "champion"), None)
    screens = []
    for row in comparison.rows:
        rival = champion or comparison.bar_of(row)
        if row.kind not in (*TUNED, "prompt") or rival is None or rival.name == row.name:
            continue
        if comparison.why_no_likelihood(row, rival) is not None:
            continue
        screen = _screen(row, rival, records[row.name], records[rival.name])
        screens += [screen] if screen else []
    return screens


def score_on_validation(model: ScoredModel) -> Score | None:
    """Return the nats per byte of a model on the validation rows, with their interval; None if not measured."""
    records = list(_records(model).values())
    return interval(_estimate([record["group"] for record in records], records)) if records else None


def _records(model: ScoredModel) -> Records:
    records = model.records("validation.parquet")
    return {record["item"]: record for record in records if record["content_nats"] is not None}


def _screen(row: ComparisonRow, rival: ComparisonRow, ours: Records, theirs: Records) -> Screen | None:
    """Return the lead on the items that both have; None for fewer than two conversations."""
    items = sorted(ours.keys() & theirs.keys())
    groups = [ours[item]["group"] for item in items]
    if len(set(groups)) < 2:
        return None
    estimates = [_estimate(groups, [records[item] for item in items]) for records in (ours, theirs)]
    values = lead_values(*estimates, lower_is_better=True)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return Screen(row.name, rival.name, len(values), float(values.mean()), error)


def _estimate(groups: Sequence[str], records: Sequence[dict[str, Any]]) -> Estimate:
    columns = [np.array([[float(record[name])] for record in records]) for name in ("content_nats", "content_bytes")]
    [estimate] = Conversations(groups).ratios(columns[0], columns[1])
    return estimate
