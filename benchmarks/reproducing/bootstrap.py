"""95 % intervals by the paired percentile bootstrap over held-out rows.

The reproductions compute with the draws: the best learning rate of each draw, for example. Comparisons of models use
the pipeline's own intervals (evaluation/comparison/leads.py).

The items of one conversation are not independent, so whole conversations are drawn (cluster bootstrap, Field & Welsh
2007). Every row of a comparison is resampled with the same draws, which makes differences paired: the difficulty that
all models share cancels out (Koehn 2004, "Statistical significance tests for machine translation evaluation").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.evaluation.comparison.score import Score

Floats = NDArray[np.float64]

TAILS = (2.5, 97.5)
"""Percentiles at the ends of a 95 % interval."""
_MAX_CELLS = 2_000_000
"""Maximum of draws times groups in memory at the same time: 16 MB."""


@dataclass(frozen=True)
class Estimate:
    """A metric of one row (a ratio of sums over the items), and its value in each resample."""

    value: float
    draws: Floats
    """Shape (resamples,)."""


class Difference(NamedTuple):
    """The lead of one estimate over another, positive if it is ahead, with the paired 95 % interval."""

    difference: float
    low: float
    high: float


class Bootstrap:
    """The draws over one set of test items, shared by every row and metric that is scored on it."""

    def __init__(self, groups: Sequence[str], resamples: int, seed: int) -> None:
        """Prepare the draws. groups: the conversation of each item, in the order of all values."""
        if not groups:
            raise ValueError("there are no items to resample")
        names, self._group_index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
        self._group_count = len(names)
        self._resamples = resamples
        self._seed = seed

    def ratios(self, numerators: Floats, denominators: Floats) -> list[Estimate]:
        """Return an estimate per column: sum of numerators / sum of denominators, both of shape (items, columns)."""
        columns = numerators.shape[1]
        sums = np.zeros((self._group_count, 2 * columns))
        np.add.at(sums, self._group_index, np.hstack([numerators, denominators]))
        resampled_sums = np.vstack([weights @ sums for weights in self._weights()])
        draws = resampled_sums[:, :columns] / resampled_sums[:, columns:]
        totals = sums.sum(axis=0)
        values = totals[:columns] / totals[columns:]
        return [Estimate(float(values[column]), draws[:, column]) for column in range(columns)]

    def means(self, values: Floats) -> list[Estimate]:
        """Return an estimate per column of `values`, shape (items, columns): the mean over the items."""
        return self.ratios(values, np.ones_like(values))

    def _weights(self) -> Iterator[Floats]:
        """Yield how often each conversation is drawn, in blocks of shape (draws, groups); the same on every call."""
        random = np.random.default_rng(self._seed)
        uniform = np.full(self._group_count, 1 / self._group_count)
        block = max(1, _MAX_CELLS // self._group_count)
        for begin in range(0, self._resamples, block):
            size = min(block, self._resamples - begin)
            yield random.multinomial(self._group_count, uniform, size=size).astype(np.float64)


def interval(estimate: Estimate) -> Score:
    """Return the value with its 95 % percentile interval."""
    low, high = np.percentile(estimate.draws, TAILS)
    return Score(estimate.value, float(low), float(high))


def difference(better: Estimate, worse: Estimate, *, lower_is_better: bool) -> Difference:
    """Return the lead of `better` over `worse`, which were drawn by the same Bootstrap."""
    sign = -1.0 if lower_is_better else 1.0
    low, high = np.percentile(sign * (better.draws - worse.draws), TAILS)
    return Difference(sign * (better.value - worse.value), float(low), float(high))
