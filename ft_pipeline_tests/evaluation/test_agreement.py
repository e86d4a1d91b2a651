"""Krippendorff's alpha: the published example, its edges, and how far it varies at a true 0.65."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ft_pipeline.evaluation.opinions.agreement import agreement

PUBLISHED = ("111", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3")
"""The values of Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C, by unit."""


def rated_pairs(generator: np.random.Generator, pairs: int, followed: float) -> NDArray[np.float64]:
    """Return the verdicts of two raters, shape (pairs, 2). Each gives the pair's own verdict with this probability."""
    own = generator.choice([-1.0, 0.0, 1.0], size=(pairs, 1), p=[0.35, 0.3, 0.35])
    others = generator.choice([-1.0, 0.0, 1.0], size=(pairs, 2), p=[0.35, 0.3, 0.35])
    return np.where(generator.random((pairs, 2)) < followed, own, others)


def units(verdicts: NDArray[np.float64]) -> dict[str, list[float]]:
    return {str(number): list(row) for number, row in enumerate(verdicts)}


def alpha_of(units: Mapping[str, Sequence[float]]) -> float | None:
    found = agreement(units)
    return found.alpha if found else None


def test_the_published_example() -> None:
    published = {str(number): [float(value) for value in row] for number, row in enumerate(PUBLISHED)}
    assert alpha_of(published) == pytest.approx(0.849, abs=0.0005)


def test_full_agreement_is_one_and_opposite_verdicts_are_below_chance() -> None:
    assert alpha_of({"a": [1, 1], "b": [-1, -1]}) == 1.0
    alpha = alpha_of({"a": [1, -1], "b": [-1, 1]})
    assert alpha is not None and alpha < 0


@pytest.mark.parametrize("verdicts", [{}, {"a": [1]}, {"a": [1, 1], "b": [1, 1]}])
def test_it_is_not_defined_without_two_verdicts_or_without_variation(verdicts: dict[str, list[float]]) -> None:
    assert alpha_of(verdicts) is None
    assert agreement(verdicts) is None


def test_the_interval_is_the_same_each_time_whatever_the_order() -> None:
    rated = units(rated_pairs(np.random.default_rng(3), 60, 0.8))
    first = agreement(rated)
    assert first == agreement(dict(reversed(rated.items())))
    assert first is not None and first.low is not None and first.high is not None
    assert first.low < first.alpha < first.high
    assert "60 pairs)" in first.describe()


def test_few_pairs_are_named() -> None:
    found = agreement(units(rated_pairs(np.random.default_rng(3), 30, 0.8)))
    assert found is not None and found.describe().endswith("; 30 pairs, which is too few)")


@pytest.mark.parametrize(
    ("pairs", "deviation"),
    [(60, 0.10), *(pytest.param(*case, marks=pytest.mark.long) for case in ((30, 0.15), (100, 0.08)))],
)
def test_how_far_alpha_varies(pairs: int, deviation: float) -> None:
    """At a true alpha of 0.65: the interval covers it, and its standard deviation is that of the documentation."""
    generator, followed = np.random.default_rng(7), 0.65**0.5
    found = [agreement(units(rated_pairs(generator, pairs, followed))) for _ in range(200)]
    known = [entry for entry in found if entry is not None and entry.low is not None and entry.high is not None]
    alphas = [entry.alpha for entry in known]
    assert len(known) == 200
    assert np.mean(alphas) == pytest.approx(0.65, abs=0.02)
    assert np.std(alphas) == pytest.approx(deviation, abs=0.03)
    covered = np.mean([entry.low < 0.65 < entry.high for entry in known])  # type: ignore[operator]
    assert covered >= 0.91
