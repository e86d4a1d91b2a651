"""What the checks of a project found in the answers of a row: which field is wrong most often, which label is taken for
which.

They are read from the columns that checks leave in samples.parquet: `NAME/fields`, `NAME/expected` and `NAME/found`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResult, FieldResults
from ft_pipeline.evaluation.comparison.leads import Conversations, interval, unit_of
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.metrics.classification import EXPECTED, FOUND, NO_LABEL
from ft_pipeline.evaluation.metrics.json_fields import EXTRA, MISSING, OUTCOMES, WRONG, credit

OTHER_FIELDS = "other fields"
"""Stands for all fields that only answers have."""
Samples = Sequence[Mapping[str, Any]]
"""The records of one row in samples.parquet."""


def field_results(row: str, samples: Samples) -> list[FieldResults]:
    """Return the results of each check of JSON answers that the samples have."""
    return [
        FieldResults(row=row, metric=metric, fields=_fields(samples, f"{metric}/{OUTCOMES}"))
        for metric in _metrics(samples, OUTCOMES)
    ]


def confusions(row: str, samples: Samples, labels: Mapping[str, Sequence[str]] | None = None) -> list[Confusion]:
    """Return the confusion matrix of each classification that the samples have.

    labels: by metric, all labels in their order; those of a metric that it lacks are sorted.
    """
    return [_confusion(row, metric, samples, (labels or {}).get(metric, ())) for metric in _metrics(samples, FOUND)]


def results_of_scores(
    folder: Path, labels: Mapping[str, Sequence[str]] | None = None
) -> tuple[list[FieldResults], list[Confusion]]:
    """Return field_results and confusions of every row in a folder of scores. labels: as in confusions."""
    file = folder / "samples.parquet"
    endings = tuple(f"/{column}" for column in (OUTCOMES, EXPECTED, FOUND))
    columns = [name for name in pq.read_schema(file).names if name.endswith(endings)] if file.is_file() else []
    if not columns:
        return [], []
    by_row: dict[str, list[dict[str, Any]]] = {}
    for record in pq.read_table(file, columns=["name", "group", *columns]).to_pylist():
        by_row.setdefault(record["name"], []).append(record)
    return (
        [result for row, samples in by_row.items() for result in field_results(row, samples)],
        [result for row, samples in by_row.items() for result in confusions(row, samples, labels)],
    )


def _metrics(samples: Samples, column: str) -> list[str]:
    """Return the metrics with a column of this name that all samples have."""
    columns = [name for name in samples[0] if name.endswith(f"/{column}")] if samples else []
    return [
        name.removesuffix(f"/{column}")
        for name in columns
        if all(isinstance(sample.get(name), str) for sample in samples)
    ]


def _fields(samples: Samples, column: str) -> list[FieldResult]:
    answers = [(unit_of(sample), json.loads(sample[column])) for sample in samples]
    of_references = {path for _, outcomes in answers for path, outcome in outcomes.items() if outcome != EXTRA}
    by_field: dict[str, list[tuple[str, Any]]] = {}
    for group, outcomes in answers:
        for path, outcome in outcomes.items():
            field = path if path in of_references else OTHER_FIELDS
            by_field.setdefault(field, []).append((group, outcome))
    results = [_field(field, found) for field, found in by_field.items()]
    return sorted(results, key=lambda result: (result.right.value - 1) * result.answers)


def _field(field: str, found: Sequence[tuple[str, Any]]) -> FieldResult:
    values = np.array([[credit(outcome)] for _, outcome in found])
    is_rate = bool(np.isin(values, (0.0, 1.0)).all())
    estimate = Conversations([group for group, _ in found]).means(values, is_rate=is_rate)[0]
    kinds = Counter(outcome for _, outcome in found if isinstance(outcome, str))
    return FieldResult(
        field=field,
        answers=len(found),
        right=_within(interval(estimate)),
        wrong=kinds[WRONG],
        missing=kinds[MISSING],
        extra=kinds[EXTRA],
    )


def _within(share: Score) -> Score:
    """Return a share with bounds from 0 to 1: those of partly right texts may be beyond."""
    if share.low is None or share.high is None:
        return share
    return Score(share.value, max(0.0, share.low), min(1.0, share.high))


def _confusion(row: str, metric: str, samples: Samples, order: Sequence[str]) -> Confusion:
    pairs = Counter((sample[f"{metric}/{EXPECTED}"], sample[f"{metric}/{FOUND}"]) for sample in samples)
    known = {label for pair in pairs for label in pair} - {NO_LABEL}
    labels = [*order, *sorted(known - set(order))]
    return Confusion(
        row=row,
        metric=metric,
        labels=labels,
        counts=[[pairs[expected, found] for found in (*labels, NO_LABEL)] for expected in labels],
    )
