"""What the checks of a project found in the answers of a row: which field is wrong most often, which label is taken for
which.

They are read from the columns that checks leave in samples.parquet: `NAME/fields`, `NAME/expected` and `NAME/found`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.json_record import JsonRecord
from ft_pipeline.evaluation.comparison.leads import Conversations, interval
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.metrics.classification import EXPECTED, FOUND, NO_LABEL
from ft_pipeline.evaluation.metrics.json_fields import EXTRA, MISSING, OUTCOMES, WRONG, credit

OTHER_FIELDS = "other fields"
"""Stands for all fields that only answers have."""
NO_LABEL_TITLE = "no label"
"""The heading of the answers without a label."""

Samples = Sequence[Mapping[str, Any]]
"""The records of one row in samples.parquet."""


@dataclass(frozen=True)
class FieldResult(JsonRecord):
    """A field in the answers of a row."""

    field: str
    answers: int
    """In which it counts: the answer or the reference has it."""
    right: Score
    wrong: int
    missing: int
    extra: int

    def describe(self) -> str:
        """Return how often it is wrong, and how."""
        counts = {"another value": self.wrong, MISSING: self.missing, EXTRA: self.extra}
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        return f"`{self.field}` ({1 - self.right.value:.0%} of {self.answers} answers{': ' if kinds else ''}{kinds})"


@dataclass(frozen=True)
class FieldResults(JsonRecord):
    """The fields of a check of JSON answers, for one row."""

    row: str
    metric: str
    fields: Sequence[FieldResult]
    """The one that is wrong most often first."""

    @property
    def worst(self) -> FieldResult | None:
        """The field that is wrong most often; None if all are right."""
        return next((result for result in self.fields if result.right.value < 1), None)

    def describe_worst(self) -> list[str]:
        """Return what is wrong most often, as a sentence; none if all fields are right."""
        worst = self.worst
        return [] if worst is None else [f"{self.row}, {self.metric}: wrong most often is {worst.describe()}."]


@dataclass(frozen=True)
class Confusion(JsonRecord):
    """The labels of a classification, for one row."""

    row: str
    metric: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    """A list per label of the references, with a number per label of the answers; the last: answers without a label."""

    @property
    def worst(self) -> tuple[str, str, int] | None:
        """The label, what it is taken for most often, and how often; None if all answers are right."""
        titles = [*self.labels, NO_LABEL_TITLE]
        wrong = [
            (count, -row, -column)
            for row, counts in enumerate(self.counts)
            for column, count in enumerate(counts)
            if column != row and count
        ]
        if not wrong:
            return None
        count, row, column = max(wrong)
        return self.labels[-row], titles[-column], count

    def describe_worst(self) -> list[str]:
        """Return which label is mistaken most often, as a sentence; none if all answers are right."""
        if self.worst is None:
            return []
        expected, found, count = self.worst
        taken = "has no label" if found == NO_LABEL_TITLE else f"is taken for {found!r}"
        return [f"{self.row}, {self.metric}: most often {expected!r} {taken} ({count} of {self.answers} answers)."]

    @property
    def answers(self) -> int:
        """The number of answers."""
        return sum(map(sum, self.counts))


def field_results(row: str, samples: Samples) -> list[FieldResults]:
    """Return the results of each check of JSON answers that the samples have."""
    return [
        FieldResults(row, metric, _fields(samples, f"{metric}/{OUTCOMES}")) for metric in _metrics(samples, OUTCOMES)
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
    answers = [(sample["group"], json.loads(sample[column])) for sample in samples]
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
    return FieldResult(field, len(found), _within(interval(estimate)), kinds[WRONG], kinds[MISSING], kinds[EXTRA])


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
        row, metric, labels, [[pairs[expected, found] for found in (*labels, NO_LABEL)] for expected in labels]
    )
