"""Values, leads and their bounds: what holds for any numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ft_pipeline.decide.sources.kept import change
from ft_pipeline.evaluation.comparison.leads import (
    Conversations,
    Difference,
    Estimate,
    bounds,
    difference,
    distance_from_ideal,
    interval,
    lead_values,
    p_value,
    wilson,
)
from ft_pipeline.evaluation.metrics.corpus_values import macro_f1, spread
from ft_pipeline.evaluation.metrics.definitions import answer_metrics
from ft_pipeline.evaluation.opinions.agreement import agreement
from ft_pipeline.evaluation.opinions.correction import corrected_win_rate, win_rate
from ft_pipeline_tests.evaluation.test_agreement import alpha_of

NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False) | st.integers(-3, 3).map(float)
SHARES = st.integers(0, 12).map(lambda count: count / 12)
GROUPS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12)


def near(expected: Any) -> Any:
    """Return what equals numbers up to rounding."""
    return pytest.approx(expected, rel=1e-7, abs=1e-7)


@st.composite
def two_estimates(draw: st.DrawFn) -> tuple[Estimate, Estimate]:
    """Two models on the same items: means, ratios, rates, or distances from 1."""
    groups = draw(GROUPS)
    kind = draw(st.sampled_from(["mean", "ratio", "rate", "ideal"]))
    numbers = st.sampled_from([0.0, 1.0]) if kind == "rate" else NUMBERS
    values = draw(arrays(float, (len(groups), 2), elements=numbers))
    conversations = Conversations(groups)
    if kind == "ratio":
        sizes = draw(arrays(float, values.shape, elements=st.integers(1, 50).map(float)))
        first, second = conversations.ratios(values, sizes)
    else:
        first, second = conversations.means(values, is_rate=kind == "rate")
    ideal = 1.0 if kind == "ideal" else None
    return distance_from_ideal(first, ideal), distance_from_ideal(second, ideal)


def ends(lead: Difference, sign: float = 1.0) -> list[float]:
    """Return the bounds of a lead, or of its negative; none where a single conversation was measured."""
    return sorted(sign * bound for bound in (lead.low, lead.high) if bound is not None)


@given(two_estimates(), st.booleans())
def test_a_reversed_lead_is_its_negative(models: tuple[Estimate, Estimate], lower_is_better: bool) -> None:
    first, second = models
    lead = difference(first, second, lower_is_better=lower_is_better)
    back = difference(second, first, lower_is_better=lower_is_better)
    assert lead.difference == -back.difference
    assert ends(lead) == near(ends(back, -1.0))
    values, reversed_ = (
        lead_values(*pair, lower_is_better=lower_is_better) for pair in ((first, second), (second, first))
    )
    assert sorted(values) == near(sorted(-reversed_))


@given(two_estimates())
def test_a_lead_by_a_metric_is_the_negative_of_one_by_its_opposite(models: tuple[Estimate, Estimate]) -> None:
    lead, opposite = (difference(*models, lower_is_better=lower) for lower in (False, True))
    assert lead.difference == -opposite.difference
    if not models[0].is_rate:
        assert ends(lead) == near(ends(opposite, -1.0))


@given(two_estimates(), st.booleans())
def test_bounds_are_around_what_they_bound(models: tuple[Estimate, Estimate], lower_is_better: bool) -> None:
    for estimate in models:
        score = interval(estimate)
        if score.low is not None and score.high is not None:
            assert score.low - 1e-9 <= score.value <= score.high + 1e-9
            assert not estimate.is_rate or 0 <= score.low <= score.high <= 1
    values = lead_values(*models, lower_is_better=lower_is_better)
    low, high = bounds(values)
    assert (low is None) == (high is None) == (len(values) < 2)
    if low is not None and high is not None:
        assert low - 1e-9 <= values.mean() <= high + 1e-9
        narrow_low, narrow_high = bounds(values, 0.95)
        assert narrow_low is not None and narrow_high is not None
        assert low <= narrow_low and narrow_high <= high


@given(two_estimates())
def test_a_lead_and_the_reversed_one_are_never_both_shown(models: tuple[Estimate, Estimate]) -> None:
    values = lead_values(*models, lower_is_better=False)
    ahead, behind = p_value(values), p_value(-values)
    assert (ahead is None) == (behind is None)
    if ahead is not None and behind is not None:
        assert 0 <= ahead <= 1 and ahead + behind >= 1 - 1e-9


@given(arrays(float, st.integers(2, 12), elements=NUMBERS))
def test_the_lower_bound_is_above_zero_where_the_p_value_is_small(values: np.ndarray) -> None:
    found, low = p_value(values), bounds(values)[0]
    assert low is not None
    if found is None:
        assert low == pytest.approx(values.mean())
    elif abs(found - 0.025) > 1e-6:
        assert (low > 0) == (found < 0.025)


@given(arrays(float, st.integers(3, 12), elements=st.integers(-20, 20).map(float)), st.sampled_from([0.95, 0.975]))
def test_the_p_value_at_a_lower_bound_is_its_level(values: np.ndarray, level: float) -> None:
    low, _ = bounds(values, level)
    assert low is not None
    found = p_value(values - low)
    assert found is None if np.ptp(values) == 0 else found == pytest.approx(1 - level, rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.3, 1e3])
def test_values_that_differ_by_rounding_alone_prove_nothing(offset: float) -> None:
    values = np.array([0.1 + 0.2, 0.3, 0.3]) - 0.3 + offset
    assert p_value(values) is None
    assert bounds(values) == (values.mean(), values.mean())


@given(GROUPS, st.data(), st.randoms(use_true_random=False))
def test_the_order_of_items_and_models_changes_no_estimate(groups: list[str], data: st.DataObject, dice) -> None:
    values = data.draw(arrays(float, (len(groups), 3), elements=NUMBERS))
    order, models = (dice.sample(range(count), count) for count in (len(groups), 3))
    one = Conversations(groups).means(values)
    other = Conversations([groups[at] for at in order]).means(values[order][:, models])
    for at, model in enumerate(models):
        assert other[at].value == near(one[model].value)
        assert other[at].influence == near(one[model].influence)


@given(two_estimates(), st.floats(0.01, 100), NUMBERS)
def test_a_lead_follows_the_unit_and_no_common_offset(
    models: tuple[Estimate, Estimate], unit: float, offset: float
) -> None:
    assume(not models[0].is_rate and models[0].ideal is None)
    changed = [
        Estimate(unit * (model.numerators + offset * model.denominators), model.denominators) for model in models
    ]
    lead, other = (difference(*pair, lower_is_better=False) for pair in (models, changed))
    for before, after in zip(lead, other, strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            assert after == pytest.approx(unit * before, rel=1e-4, abs=1e-4 * unit)


@example(1, 1, 0.953125)  # the upper bound was the number before 1
@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.6, 0.999))
def test_the_bounds_of_a_rate_are_within_0_and_1_around_it(having: int, count: int, level: float) -> None:
    rate = min(having, count) / count
    low, high = wilson(rate, count, level)
    assert 0 <= low <= rate <= high <= 1
    for bound in (low, high):  # Wilson: the rate is as many standard errors from a bound as the level says
        errors = stats.norm.ppf(level) * np.sqrt(bound * (1 - bound) / count)
        assert abs(rate - bound) == pytest.approx(errors, rel=1e-6, abs=1e-7)
    mirrored = wilson(1 - rate, count, level)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


@given(two_estimates(), st.floats(0.01, 0.5))
def test_a_drop_is_kept_or_lost_and_never_both(models: tuple[Estimate, Estimate], margin: float) -> None:
    drop, gain = (
        change("general", "tuned", "general_accuracy", "base", before, after, margin)
        for before, after in (models, models[::-1])
    )
    assert (drop.verdict == "unknown") == (gain.verdict == "unknown")
    if drop.low is not None and drop.high is not None and drop.value is not None and gain.value is not None:
        assert drop.low <= drop.value <= drop.high and drop.value == near(-gain.value)
        assert {drop.verdict, gain.verdict} != {"refuted"}
        assert (drop.verdict == "shown") == (drop.low > drop.limit)


SCORES = arrays(float, st.integers(1, 12), elements=SHARES)


@given(SCORES)
def test_a_reversed_win_rate_is_its_complement(scores: np.ndarray) -> None:
    won, lost = win_rate(scores), win_rate(1 - scores)
    assert won.value == pytest.approx(1 - lost.value)
    if won.low is not None and won.high is not None and lost.low is not None and lost.high is not None:
        assert 0 <= won.low <= won.high <= 1
        assert (won.low, won.high) == near((1 - lost.high, 1 - lost.low))
        assert won.low <= won.value + 1e-9 and won.value - 1e-9 <= won.high


@example([(0.0, 7 / 12), (0.0, 7 / 12), (2 / 12, 7 / 12)], [0.0])  # rounding had made this judge vary
@given(st.lists(st.tuples(SHARES, SHARES), min_size=3, max_size=10), st.lists(SHARES, max_size=10))
def test_a_judge_corrected_by_people_is_reversed_with_them(rated: list[tuple], more: list[float]) -> None:
    people, judge = np.array(rated).T
    of_all = np.concatenate([judge, more])
    won, lost = (
        corrected_win_rate(*scores) for scores in ((people, judge, of_all), (1 - people, 1 - judge, 1 - of_all))
    )
    assert won.value == near(1 - lost.value)
    if won.low is not None and won.high is not None and lost.low is not None and lost.high is not None:
        assert 0 <= won.low <= won.high <= 1
        assert (won.low, won.high) == pytest.approx((1 - lost.high, 1 - lost.low), abs=1e-6)


VERDICTS = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=4)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from("abcdefgh"), VERDICTS, max_size=8), st.randoms(use_true_random=False))
def test_agreement_depends_on_neither_order_nor_side(units: dict[str, list[float]], dice) -> None:
    alpha = alpha_of(units)
    mixed = {name: dice.sample(units[name], len(units[name])) for name in dice.sample(sorted(units), len(units))}
    assert alpha_of(mixed) == pytest.approx(alpha)
    assert alpha_of({name: [-verdict for verdict in units[name]] for name in units}) == pytest.approx(alpha)
    found = agreement(units)
    assert (found is None) == (alpha is None) and agreement(mixed) == pytest.approx(found)
    if found is not None:
        assert found.alpha <= 1 + 1e-12
        if found.low is not None and found.high is not None:
            assert found.low <= found.high <= 1 + 1e-12


TEXTS = st.lists(
    st.sampled_from(["refund", "Order", "10400", "é", "где", "\n", "."]) | st.text(max_size=5), max_size=6
).map(" ".join)
RANGES: dict[str, float] = {"chrf": 100.0, "rouge_l": 1.0, "exact_match": 1.0}


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_metrics_of_an_answer_are_within_their_range(reference: str, answer: str) -> None:
    found = answer_metrics(reference, answer)
    assert set(found) == set(RANGES)
    for name, highest in RANGES.items():
        assert 0 <= found[name] <= highest + 1e-9, name
    same = answer_metrics(reference, reference)
    assert same["exact_match"] == 1 and all(found[name] <= same[name] + 1e-9 for name in ("chrf", "rouge_l"))


LABELS = st.sampled_from(["refund", "late", "other"])


@given(st.lists(st.tuples(LABELS, LABELS | st.just("none"), st.sampled_from("abcde")), min_size=1, max_size=12))
def test_the_spread_of_a_corpus_value_has_it_as_its_mean(rows: list[tuple[str, str, str]]) -> None:
    references, answers, groups = (list(column) for column in zip(*rows, strict=True))
    values = macro_f1(references, answers, groups)
    [estimate] = Conversations(groups).means(np.array(values)[:, None])
    f1 = []
    for label in set(references):
        right = sum(reference == answer == label for reference, answer, _ in rows)
        f1.append(2 * right / (references.count(label) + answers.count(label)))
    assert estimate.value == near(np.mean(f1)) and -1e-9 <= estimate.value <= 1 + 1e-9
    of_labels = Conversations(groups).macro_f1(references, answers)
    assert of_labels.value == near(estimate.value) and of_labels.influence == near(estimate.influence)
    score = interval(of_labels)
    if score.low is not None and score.high is not None:
        assert 0 <= score.low <= score.value + 1e-9 and score.value - 1e-9 <= score.high <= 1


@given(NUMBERS, st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), st.data())
def test_a_spread_gives_its_influence_back(value: float, groups: list[str], data: st.DataObject) -> None:
    names = sorted(set(groups))
    influence = data.draw(arrays(float, len(names), elements=NUMBERS))
    influence -= influence.mean()
    [estimate] = Conversations(groups).means(np.array(spread(value, influence, groups))[:, None])
    assert estimate.value == near(value)
    assert estimate.influence == pytest.approx(influence, rel=1e-6, abs=1e-6)
