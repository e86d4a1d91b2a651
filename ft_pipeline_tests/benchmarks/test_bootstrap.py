"""Intervals against cases whose answer is known."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from reproducing.bootstrap import Bootstrap, difference, interval


def test_the_interval_of_a_mean_is_close_to_theory() -> None:
    values = np.random.default_rng(1).normal(5, 2, size=(400, 1))
    [estimate] = Bootstrap([str(number) for number in range(400)], 10_000, 0).means(values)
    found = interval(estimate)
    error = 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.03)
    assert found.high == pytest.approx(values.mean() + error, abs=0.03)


def test_a_ratio_is_computed_from_sums_not_as_a_mean_of_ratios() -> None:
    [estimate] = Bootstrap(["a", "b"], 100, 0).ratios(np.array([[10.0], [1.0]]), np.array([[10.0], [4.0]]))
    assert estimate.value == pytest.approx(11 / 14)


def test_items_of_one_conversation_are_drawn_together() -> None:
    """Copies of an item inside its conversation add no certainty."""
    values = np.random.default_rng(2).normal(size=(40, 1))
    once = Bootstrap([str(number) for number in range(40)], 2000, 0).means(values)
    copied = Bootstrap([str(number) for number in range(40) for _ in range(5)], 2000, 0).means(values.repeat(5, axis=0))
    assert asdict(interval(once[0])) == pytest.approx(asdict(interval(copied[0])))


def test_differences_are_paired() -> None:
    """What both rows share cancels out: a constant lead has no width although both rows vary a lot."""
    hard = np.random.default_rng(3).normal(0, 10, size=50)
    better, worse = Bootstrap([str(number) for number in range(50)], 1000, 0).means(np.stack([hard, hard + 0.5]).T)
    found = difference(better, worse, lower_is_better=True)
    assert found == pytest.approx((0.5, 0.5, 0.5))
    backwards = difference(worse, better, lower_is_better=True)
    assert backwards == pytest.approx((-0.5, -0.5, -0.5))


def test_the_draws_depend_on_the_seed_not_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(30, 2))
    groups = [str(number) for number in range(30)]
    whole = Bootstrap(groups, 500, 7).means(values)
    monkeypatch.setattr("reproducing.bootstrap._MAX_CELLS", 30 * 64)
    blocks = Bootstrap(groups, 500, 7).means(values)
    assert np.array_equal(whole[1].draws, blocks[1].draws)
    assert not np.array_equal(whole[1].draws, Bootstrap(groups, 500, 8).means(values)[1].draws)


def test_intervals_and_differences_can_be_written_as_json() -> None:
    estimates = Bootstrap(["a", "b"], 100, 0).means(np.array([[1.0, 2.0], [3.0, 4.0]]))
    json.dumps([asdict(interval(estimates[0])), difference(estimates[1], estimates[0], lower_is_better=False)])


def test_a_bootstrap_without_items_is_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        Bootstrap([], 100, 0)
