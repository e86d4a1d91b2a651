"""Which labels are probably wrong: those of rows to which the classifier, which did not learn from them, gives another.

The rows are listed by how much likelier the other label is. Most of a list are rows that are hard for the classifier.
So the number of wrong labels is estimated from the rows of which it is surest. There, it is seldom wrong itself, and
where its answer is another one than the label, the label mostly is. That takes wrong labels to be as frequent among
easy rows as among hard ones (anchor points, Liu and Tao 2016), and counts the few sure answers that are wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.evaluation.comparison.leads import Conversations, interval
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.rivals.label_model import Floats
from ft_pipeline.worth.cross_validation import Folds

NEAREST = 2
"""Rows that are shown beside a suspected one: the most similar ones that have the likely label."""
SUREST = 1 / 3
"""The share of the rows of which the classifier is surest."""


@dataclass(frozen=True)
class Suspect:
    """A row whose label is probably wrong."""

    row: int
    likely: int
    """The likely label, as an index into the names of the folds."""
    probability: float
    """Of the likely label, and of its own."""
    own_probability: float
    nearest: Sequence[int]
    """The most similar rows that have the likely label."""


def expected_errors(folds: Folds, probabilities: Floats, units: NDArray[np.int64]) -> Score:
    """Return the expected number of wrong labels, with its 95 % interval.

    probabilities: rows × labels, out of fold. units: of each row, for the interval.
    """
    count = len(folds.labels)
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")[: math.ceil(SUREST * count)]
    disagrees = probabilities[surest].argmax(axis=1) != folds.labels[surest]
    (share,) = Conversations([str(unit) for unit in units[surest]]).means(disagrees[:, None] * 1.0, is_rate=True)
    found = interval(share)
    low, high = found.ends
    return Score(count * found.value, count * low, count * high)


def suspects(folds: Folds, probabilities: Floats) -> list[Suspect]:
    """Return the rows of which another label is likelier than their own, the surest first."""
    rows = np.arange(len(folds.labels))
    likely, own = probabilities.argmax(axis=1), probabilities[rows, folds.labels]
    best = probabilities[rows, likely]
    found = np.flatnonzero(likely != folds.labels)
    found = found[np.argsort(own[found] - best[found], kind="stable")]
    return [
        Suspect(row, int(likely[row]), float(best[row]), float(own[row]), _nearest(folds, row, int(likely[row])))
        for row in found.tolist()
    ]


def _nearest(folds: Folds, row: int, label: int) -> list[int]:
    """Return the rows with a label that are most like a row, without itself."""
    others = np.flatnonzero((folds.labels == label) & (np.arange(len(folds.labels)) != row))
    likeness = folds.features[others] @ folds.features[row]
    return others[np.argsort(-likeness, kind="stable")[:NEAREST]].tolist()
