"""People's verdicts correct a judge's: simulated rates, with fixed seeds, and single cases."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from ft_pipeline.evaluation.opinions.correction import (
    corrected_win_rate,
    length_adjusted,
    prediction_powered,
    win_rate,
)

Floats = NDArray[np.float64]
COMPARED = 134
"""Conversations that the judge compares."""
TIES = 0.14
"""Share of ties in people's verdicts."""
WORLDS = 6000


def verdicts(latent: Floats, share: float) -> Floats:
    """Return scores, of which this share is the mean if the latent values are standard normal: 1, 0.5 or 0."""
    won, lost = share - TIES / 2, 1 - share - TIES / 2
    return np.where(latent > ndtri(1 - won), 1.0, np.where(latent < ndtri(lost), 0.0, 0.5))


def worlds(seed: int, share: float, *, lean: float = 0.0, noise: float = 0.75) -> tuple[Floats, Floats]:
    """Return the scores of people and of a judge, shape (WORLDS, COMPARED).

    share: of the comparisons that the candidate wins. lean: how much the judge likes longer answers; the candidate's
    are. noise: of the judge, in standard deviations of what people see.
    """
    generator = np.random.default_rng(seed)
    seen = generator.standard_normal((WORLDS, COMPARED))
    longer = generator.random((WORLDS, COMPARED)) < 0.7
    judged = (seen + noise * generator.standard_normal(seen.shape)) / np.hypot(1, noise)
    return verdicts(seen, share), verdicts(judged + lean * longer, share)


def corrected(people: Floats, judge: Floats, rated: int) -> tuple[Floats, Floats, float]:
    """Return estimates, standard errors and the quantile of a two-sided 95 % interval."""
    estimates, errors = prediction_powered(people[:, :rated], judge[:, :rated], judge)
    return estimates, errors, float(stdtrit(rated - 2, 0.975))


def called_better(values: Floats) -> float:
    """Return the share of worlds in which plain verdicts call the candidate clearly better."""
    count = values.shape[-1]
    errors = values.std(-1, ddof=1) / np.sqrt(count)
    return float(np.mean(values.mean(-1) - stdtrit(count - 1, 0.975) * errors > 0.5))


@pytest.mark.parametrize("rated", [50, 60, 100])
def test_a_judge_that_likes_long_answers_does_not_call_equal_models_different(rated: int) -> None:
    people, judge = worlds(1, 0.5, lean=0.38)
    assert called_better(judge) >= 0.65, "uncorrected, it is wrong"
    estimates, errors, quantile = corrected(people, judge, rated)
    assert np.mean(estimates - quantile * errors > 0.5) <= 0.04
    assert np.mean(np.abs(estimates - 0.5) < quantile * errors) >= 0.93


@pytest.mark.parametrize("rated", [50, 60, 100])
@pytest.mark.parametrize(("lean", "noise"), [(0.0, 0.75), (0.8, 2.0), (0.0, 50.0)])
def test_the_interval_covers_the_truth_whatever_the_judge(rated: int, lean: float, noise: float) -> None:
    people, judge = worlds(2, 0.65, lean=lean, noise=noise)
    estimates, errors, quantile = corrected(people, judge, rated)
    assert np.mean(np.abs(estimates - 0.65) < quantile * errors) >= 0.93


@pytest.mark.parametrize(("rated", "power"), [(50, 0.80), (60, 0.85), (100, 0.95)])
def test_a_true_65_percent_is_found(rated: int, power: float) -> None:
    people, judge = worlds(3, 0.65)
    estimates, errors, quantile = corrected(people, judge, rated)
    assert np.mean(estimates - quantile * errors > 0.5) == pytest.approx(power, abs=0.03)


def test_a_judge_makes_the_interval_narrower_and_a_bad_one_hardly_wider() -> None:
    half_widths = []
    for noise in (0.75, 50.0):
        _, errors, quantile = corrected(*worlds(4, 0.65, noise=noise), 60)
        half_widths.append(float(np.mean(errors)) * quantile)
    people, _ = worlds(4, 0.65)
    alone = float(np.mean(people[:, :60].std(-1, ddof=1))) / np.sqrt(60) * float(stdtrit(59, 0.975))
    assert half_widths[0] < 0.9 * alone and half_widths[1] < 1.03 * alone


def test_one_case_by_hand() -> None:
    """b = cov/var = 1 on the rated ones: then the judge's mean of all, plus the mean of what people add."""
    people, judge = np.array([1.0, 1.0, 0.5, 0.0, 0.5]), np.array([1.0, 0.5, 0.5, 0.0, 0.0])
    of_all = np.concatenate([judge, [1.0, 1.0, 0.5, 0.0, 0.5]])
    weight = np.cov(people, judge)[0, 1] / np.var(judge, ddof=1)
    rest = people - weight * judge
    found = corrected_win_rate(people, judge, of_all)
    assert found.value == pytest.approx(weight * of_all.mean() + rest.mean())
    variance = people.var() * 5 / 3 / 10 + (1 / 5 - 1 / 10) * rest.var() * 5 / 3
    assert found.high == pytest.approx(min(1.0, found.value + stdtrit(3, 0.975) * variance**0.5))
    assert found.low == pytest.approx(found.value - stdtrit(3, 0.975) * variance**0.5)


def test_a_judge_that_always_says_the_same_changes_nothing() -> None:
    people = np.array([1.0, 0.0, 0.5, 1.0, 1.0, 0.5])
    found = corrected_win_rate(people, np.full(6, 0.5), np.full(20, 0.5))
    assert found.value == pytest.approx(people.mean())


@pytest.mark.parametrize("everywhere", [1.0, 0.5, 0.0])
def test_the_same_verdict_on_every_pair_has_an_interval_with_a_width(everywhere: float) -> None:
    alone = win_rate(np.full(60, everywhere))
    judge = np.random.default_rng(5).random(134)
    both = corrected_win_rate(np.full(60, everywhere), judge[:60], judge)
    assert alone.value == everywhere
    for found in (alone, both):
        assert found.low is not None and found.high is not None and found.p is not None
        assert 0 <= found.low < found.high <= 1
        assert (found.p < 0.001) == (everywhere == 1.0)


def test_two_conversations_are_not_corrected() -> None:
    people = np.array([1.0, 0.0])
    assert corrected_win_rate(people, people, np.array([1.0, 0.0, 1.0])) == win_rate(people)


def test_the_win_rate_at_equal_lengths() -> None:
    """A judge that sees length alone has no preference among answers of equal length."""
    lengths = np.array([0.4, 0.2, 0.6, 0.8])
    assert length_adjusted(0.5 + lengths / 2, lengths) == pytest.approx(0.5)
    assert length_adjusted(np.array([1.0, 0.5]), np.zeros(2)) == 0.75
