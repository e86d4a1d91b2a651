"""Choose one of a few labels: logistic regression on TF-IDF of words and of characters."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ft_pipeline.evaluation.rivals.answered_questions import NoRival
from ft_pipeline.evaluation.rivals.text_features import VIEWS, fit_vectorizer, vectorizer

Floats = npt.NDArray[np.floating[Any]]
STRENGTHS = (1.0, 10.0, 100.0)
"""Of the regression (C), from the most cautious one. The best is chosen by validation rows."""
USUAL = 10.0
"""Where a label has a single row, which cannot be learned from and held out."""
FEW = 20
"""With fewer validation rows, the training rows choose, by cross-validation."""
FOLDS = 5
MAX_STEPS = 1_000
"""Of the solver."""
MAX_ROWS = 20_000
"""Training rows that are learned from: the first ones by the hashes of their ids."""


@dataclass(frozen=True)
class Labelled:
    """Questions and the label of each."""

    questions: Sequence[str]
    labels: Sequence[str]


class LabelModel:
    """Chooses one of a few labels by the words and the characters of a question."""

    def __init__(self, labels: Sequence[str], views: Mapping[str, Any], weights: Floats, intercepts: Floats) -> None:
        """views: by name, fitted vectorizers. weights: labels × features, of all views side by side."""
        self.labels = list(labels)
        self._views = views
        self._weights = weights
        self._intercepts = intercepts

    @classmethod
    def fit(cls, training: Labelled, validation: Labelled, seed: int = 0) -> "LabelModel":
        """Return the model. Raises NoRival if there is one label only, or if scikit-learn does not converge."""
        from scipy.sparse import hstack

        if len(set(training.labels)) < 2:
            raise NoRival("all training rows have the same answer")
        views = {view: fit_vectorizer(view, training.questions) for view in VIEWS}
        features = hstack([views[view].transform(training.questions) for view in VIEWS], format="csr")
        asked = (
            hstack([views[view].transform(validation.questions) for view in VIEWS]) if validation.questions else None
        )
        strength = _best_strength(features, training.labels, asked, validation.labels, seed)
        fitted = fit_regression(features, training.labels, strength)
        weights, intercepts = fitted.coef_, fitted.intercept_
        if len(fitted.classes_) == 2:  # one row decides between two labels
            weights, intercepts = np.vstack([0 * weights, weights]), np.array([0.0, intercepts[0]])
        return cls(fitted.classes_.tolist(), views, weights.astype(np.float32), intercepts.astype(np.float32))

    def probabilities(self, questions: Sequence[str]) -> Floats:
        """Return the probability of each label: questions × labels."""
        from scipy.sparse import hstack
        from scipy.special import softmax

        features = hstack([self._views[view].transform(questions) for view in VIEWS], format="csr")
        chances: Floats = softmax(features @ self._weights.T + self._intercepts, axis=1)
        return chances

    def arrays(self) -> dict[str, Any]:
        """Return what `from_stored` needs, as arrays."""
        frequencies = {f"idf.{view}": self._views[view].idf_.astype(np.float32) for view in VIEWS}
        return {"weights": self._weights, "intercepts": self._intercepts, **frequencies}

    def texts(self) -> dict[str, Any]:
        """Return what `from_stored` needs, as JSON: the labels, and the features of each view in their order."""
        return {"labels": self.labels, **{view: _in_order(self._views[view].vocabulary_) for view in VIEWS}}

    @classmethod
    def from_stored(cls, arrays: Mapping[str, Any], texts: Mapping[str, Any]) -> "LabelModel":
        """Return the model that `arrays` and `texts` describe."""
        views = {}
        for view in VIEWS:
            views[view] = vectorizer(view, {feature: number for number, feature in enumerate(texts[view])})
            views[view].idf_ = arrays[f"idf.{view}"].astype(np.float64)
        return cls(texts["labels"], views, arrays["weights"], arrays["intercepts"])


def _in_order(vocabulary: Mapping[str, int]) -> list[str]:
    return sorted(vocabulary, key=vocabulary.__getitem__)


def fit_regression(features: Any, labels: Sequence[str], strength: float) -> Any:
    """Return the regression. Raises NoRival if it does not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return LogisticRegression(C=strength, max_iter=MAX_STEPS).fit(features, labels)
        except ConvergenceWarning:
            raise NoRival(f"scikit-learn did not converge in {MAX_STEPS:,} steps") from None


def _best_strength(features: Any, labels: Sequence[str], asked: Any | None, wanted: Sequence[str], seed: int) -> float:
    """Return the strength with the most right answers to the validation rows; of equal ones, the most cautious."""
    if asked is not None and len(wanted) >= FEW:
        right = [
            (fit_regression(features, labels, each).predict(asked) == np.array(wanted)).sum() for each in STRENGTHS
        ]
        return STRENGTHS[int(np.argmax(right))]
    folds = min(FOLDS, *Counter(labels).values())
    return USUAL if folds < 2 else _cross_validated(features, np.array(labels), folds, seed)


def _cross_validated(features: Any, labels: Any, folds: int, seed: int) -> float:
    from sklearn.model_selection import StratifiedKFold

    parts = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels))
    right = [
        sum(
            (fit_regression(features[kept], labels[kept], each).predict(features[held]) == labels[held]).sum()
            for kept, held in parts
        )
        for each in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(right))]
