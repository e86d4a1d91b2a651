"""The classifier on words, asked about rows that it did not learn from: out-of-fold answers, with some rows left out.

It is the rival `word_model` (evaluation/rivals/label_model.py), which learns in a fraction of a second. So a question
about data costs seconds in place of a training of a language model for each group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import hstack

from ft_pipeline.evaluation.rivals.label_model import STRENGTHS, Floats, fit_regression
from ft_pipeline.evaluation.rivals.text_features import VIEWS, fit_vectorizer

FOLDS = 5
REPEATS = 2
"""Times that the rows are put into folds: what one model happens to get right counts less."""
SMALLEST = 1e-10
"""Of the largest axis, the size from which one is used."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Folds:
    """Rows as features, and the folds in which each is asked about."""

    features: Floats
    """Rows × coordinates. They know no label, so that all rows may have a say in what the features are."""
    labels: NDArray[np.int64]
    """Of each row, an index into `names`."""
    names: Sequence[str]
    fold: NDArray[np.int64]
    """Repeats × rows."""
    strength: float = STRENGTHS[0]
    """Of the regression."""

    @classmethod
    def of(cls, questions: Sequence[str], labels: Sequence[str], units: NDArray[np.int64], seed: int = 0) -> "Folds":
        """Return rows in folds. units: rows of one unit are in one fold. NoRival if nothing can be learned."""
        names, codes = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
        features = _coordinates(hstack([fit_vectorizer(view, questions).transform(questions) for view in VIEWS]))
        generator = np.random.default_rng(seed)
        fold = np.array([_folds(units, generator) for _ in range(REPEATS)])
        tried = [cls(features, codes, names.tolist(), fold[:1], strength) for strength in STRENGTHS]
        best = int(np.argmax([(each.probabilities()[0].argmax(axis=-1) == codes).sum() for each in tried]))
        return replace(tried[best], fold=fold)

    def held(self) -> Mask:
        """Return which rows are asked about, and not learned from: repeats × folds × rows."""
        return self.fold[:, None, :] == np.arange(FOLDS)[:, None]

    def probabilities(self, left_out: Mask | None = None) -> Floats:
        """Return the probability of each label of each row, repeats × rows × labels, by models that learned from the
        rows of the other folds.

        left_out: rows that no model learns from, or that one does not: of the shape of `held`, or one that is
        broadcast to it.
        """
        held = self.held()
        out = np.broadcast_to(np.zeros(1, bool) if left_out is None else left_out, held.shape)
        found = np.zeros((len(held), len(self.labels), len(self.names)))
        for repeat, number in np.ndindex(held.shape[:2]):
            asked = held[repeat, number]
            found[repeat, asked] = self._learn(~asked & ~out[repeat, number], asked)
        return found

    def _learn(self, training: Mask, asked: Mask) -> Floats:
        """Return the probabilities of the asked rows. A label that no training row has gets 0."""
        known = np.unique(self.labels[training])
        found = np.zeros((int(asked.sum()), len(self.names)))
        if len(known) < 2:
            found[:, known] = 1.0
            return found
        fitted = fit_regression(self.features[training], self.labels[training].tolist(), self.strength)
        found[:, known] = fitted.predict_proba(self.features[asked])
        return found


def _coordinates(features: Any) -> Floats:
    """Return rows in as many coordinates as there are rows, with the same products: rows × coordinates.

    A regression whose weights are held small has the same answers in them, and learns them ten times as fast as from
    tens of thousands of words.
    """
    sizes, axes = np.linalg.eigh((features @ features.T).toarray())
    is_used = sizes > SMALLEST * sizes[-1]
    coordinates: Floats = axes[:, is_used] * np.sqrt(sizes[is_used])
    return coordinates


def _folds(units: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the fold of each row: units in random order, each to the fold with the fewest rows."""
    distinct, place, sizes = np.unique(units, return_inverse=True, return_counts=True)
    order = generator.permutation(len(distinct))
    of_unit, rows = np.zeros(len(distinct), np.int64), np.zeros(FOLDS, np.int64)
    for unit in order[np.argsort(-sizes[order], kind="stable")].tolist():
        of_unit[unit] = rows.argmin()
        rows[of_unit[unit]] += sizes[unit]
    return of_unit[place]
