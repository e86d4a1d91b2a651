"""How far raters agree: Krippendorff's alpha with the interval metric.

Krippendorff 2004, "Content Analysis", chapter 11. 1 is full agreement, 0 that of chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ENOUGH_PAIRS = 50
"""Pairs of answers under which an agreement is too uncertain to be used."""
_DRAWS = 1000
_SEED = 20240131


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha of some raters."""

    alpha: float
    low: float | None
    """Bounds of the 95 % interval."""
    high: float | None
    pairs: int
    """Pairs of answers that two or more raters judged."""

    def describe(self) -> str:
        """Return the agreement as words: the number, its interval, and whether it rests on enough pairs."""
        bounds = "" if self.low is None or self.high is None else f", {self.low:.2f} to {self.high:.2f}"
        few = ", which is too few" if self.pairs < ENOUGH_PAIRS else ""
        return f"{self.alpha:.2f} (Krippendorff's alpha{bounds}; {self.pairs} pairs{few})"


def agreement(units: Mapping[str, Sequence[float]]) -> Agreement | None:
    """Return alpha with its 95 % interval, by drawing units with replacement. None if no unit has two verdicts, or if
    all verdicts are the same: then it is not defined.

    units: the verdicts on each pair of answers, -1, 0 or +1, one per rater, in any order. The draws have a fixed seed:
    the same verdicts give the same interval.
    """
    terms = _terms(units)
    alpha, count = float(_alpha(terms.sum(axis=0))), len(terms)
    if np.isnan(alpha):
        return None
    generator = np.random.default_rng(_SEED)
    times = generator.multinomial(count, np.full(count, 1 / count), size=_DRAWS)
    drawn = _alpha(times @ terms)
    drawn = drawn[~np.isnan(drawn)]
    if count < 2 or not len(drawn):
        return Agreement(alpha, None, None, count)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Agreement(alpha, float(low), float(high), count)


def _terms(units: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """Return (number, sum, sum of squares, disagreement) of each unit of two or more verdicts. Shape (units, 4)."""
    terms = []
    for name in sorted(units):
        verdicts = np.asarray(units[name], dtype=float)
        if (count := len(verdicts)) > 1:
            spread = float(((verdicts - verdicts.mean()) ** 2).sum())
            terms.append((count, verdicts.sum(), (verdicts**2).sum(), spread * count / (count - 1)))
    return np.array(terms, dtype=float).reshape(-1, 4)


def _alpha(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return alpha for sums of the terms over the units, shape (..., 4). NaN where it is not defined."""
    count, total, squares, disagreement = np.moveaxis(totals, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed, expected = disagreement / count, (squares - total**2 / count) / (count - 1)
        return np.asarray(np.where(expected > 1e-12, 1 - observed / expected, np.nan))
