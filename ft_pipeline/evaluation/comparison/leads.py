"""Values of metrics, leads between models, their intervals and p-values: one statistic for every decision.

The items of one conversation are not independent, nor are conversations with like questions. So a cluster of them
(tables/clusters.py) is the unit, which is called a conversation here. A metric is a ratio of sums over the
conversations, R = ΣN / ΣD (a mean has D = number of items). Its influence values u_g = (N_g - R·D_g) / mean(D) are the
linear approximation of what each conversation adds to it. Two models are compared on the same conversations, so that
what is hard for both cancels out: the values of a lead are the differences of the influence values.

Intervals are the wider of Student's t and its skew-corrected version (Hall 1992, "On the removal of skewness by
transformation"). The percentile bootstrap calls equal models different too often: on 50 conversations in 3 to 6 % of
the cases, where it promises 2.5 %. No random numbers are used.

Conversations that a sample happens not to have, such as the one in a hundred where a model fails, show in no spread. So
an interval reaches at least as far as what none of n conversations shows may be true (`unseen_share`), times what such
a conversation would change: the whole value, if a metric has a range, and else 2.5 standard deviations of its values.
That is no promise for a metric without a range: a failure may cost more than any conversation that was seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.metrics.definitions import Metric

Floats = NDArray[np.float64]

LEVEL = 0.975
"""Level of each bound of a two-sided 95 % interval."""
_SYMMETRIC = 1e-6
"""Skewness up to which values count as symmetric."""
_LABELS_OF_AN_ANSWER = 2.0
"""The denominator of an answer in the F1 of a label: the label of its reference and its own."""
_MORE = 3
"""Answers of an invented conversation in the interval of a mean of ratios."""
_FAR = 2.5
"""Standard deviations of the values of a metric without a range that an unseen conversation may change."""


@dataclass(frozen=True)
class Estimate:
    """A metric of one model: a ratio of sums over the conversations."""

    numerators: Floats
    """Shape (conversations,)."""
    denominators: Floats
    """Shape (conversations,)."""
    is_rate: bool = False
    """Whether each item has or has not something: 0 or 1."""
    highest: float | None = field(default=None, kw_only=True)
    """The largest value that an item can have, if its values are from 0 to a number. None: it has no such range."""
    ideal: float | None = field(default=None, kw_only=True)
    """If it is not None, the estimate is the distance of the ratio from it."""

    @cached_property
    def value(self) -> float:
        ratio = float(self.numerators.sum() / self.denominators.sum())
        return ratio if self.ideal is None else abs(ratio - self.ideal)

    @cached_property
    def influence(self) -> Floats:
        """What each conversation adds to the value, shape (conversations,). Their mean is 0."""
        ratio = self.numerators.sum() / self.denominators.sum()
        values = (self.numerators - ratio * self.denominators) / self.denominators.mean()
        return values if self.ideal is None else values * np.sign(ratio - self.ideal)


@dataclass(frozen=True)
class MeanOfRatios(Estimate):
    """The mean of several ratios of sums, such as macro-F1: that of the F1 of the labels.

    `numerators` and `denominators` have the shape (ratios, conversations).
    """

    @cached_property
    def value(self) -> float:
        return float((self.numerators.sum(1) / self.denominators.sum(1)).mean())

    @cached_property
    def influence(self) -> Floats:
        return self.numerators.shape[1] * self.parts().mean(0)

    def parts(self, invented: Sequence[float] = (), answers: int = 1) -> Floats:
        """Return what each conversation adds to each ratio, shape (ratios, conversations and invented ones).

        invented: the ratio in further conversations, each with so many answers. They are counted in the ratios, too.
        """
        more = np.full((len(self.numerators), len(invented)), answers * _LABELS_OF_AN_ANSWER)
        denominators = np.hstack([self.denominators, more])
        numerators = np.hstack([self.numerators, more * np.array(invented)])
        totals = denominators.sum(1, keepdims=True)
        return (numerators - numerators.sum(1, keepdims=True) / totals * denominators) / totals


class Difference(NamedTuple):
    """The lead of one estimate over another, positive if it is ahead, with its paired 95 % interval.

    The bounds are None if a single conversation was measured, which shows no spread.
    """

    difference: float
    low: float | None
    high: float | None


def unit_of(record: Mapping[str, Any]) -> str:
    """Return the unit of statistics of a record: the cluster of its conversation, or else the conversation."""
    unit: str = record.get("cluster") or record["group"]
    return unit


class Conversations:
    """The test items by conversation, shared by every model and metric that is scored on them."""

    def __init__(self, groups: Sequence[str]) -> None:
        """groups: the conversation of each item, in the order of all values."""
        if not groups:
            raise ValueError("there are no items to compare")
        names, self._group_index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
        self._group_count = len(names)

    def ratios(
        self, numerators: Floats, denominators: Floats, *, is_rate: bool = False, highest: float | None = None
    ) -> list[Estimate]:
        """Return an estimate per column: sum of numerators / sum of denominators, both of shape (items, columns)."""
        sums = zip(self._sums(numerators), self._sums(denominators), strict=True)
        return [Estimate(*both, is_rate, highest=1.0 if is_rate else highest) for both in sums]

    def means(self, values: Floats, *, is_rate: bool = False, highest: float | None = None) -> list[Estimate]:
        """Return an estimate per column of `values`, shape (items, columns): the mean over the items.

        highest: the largest value, if they are from 0 to a number.
        """
        return self.ratios(values, np.ones_like(values), is_rate=is_rate, highest=highest)

    def macro_f1(self, expected: Sequence[str], found: Sequence[str]) -> MeanOfRatios:
        """Return the mean of the F1 of each label that is expected. The F1 is 2·TP / (2·TP + FP + FN).

        expected, found: the labels of the reference and of the answer to each item.
        """
        labels = np.array(sorted(set(expected)))
        of_reference, of_answer = (np.asarray(names)[:, None] == labels for names in (expected, found))
        numerators, denominators = 2.0 * (of_reference & of_answer), 1.0 * of_reference + of_answer
        return MeanOfRatios(self._sums(numerators), self._sums(denominators), highest=1.0)

    def _sums(self, values: Floats) -> Floats:
        """Return the sums of some columns over the items of each conversation, shape (columns, conversations)."""
        sums = np.zeros((self._group_count, values.shape[1]))
        np.add.at(sums, self._group_index, values)
        return np.ascontiguousarray(sums.T)


def distance_from_ideal(estimate: Estimate, ideal: float | None) -> Estimate:
    """Return the estimate by which models are ranked: of the value, or of its distance from `ideal` if there is one."""
    if ideal is None:
        return estimate
    return Estimate(estimate.numerators, estimate.denominators, ideal=ideal)


def interval(estimate: Estimate) -> Score:
    """Return the value with its 95 % interval.

    For a rate it is Wilson's (1927), for as many independent answers as the conversations are worth: the number of
    answers divided by the design effect. Other values of a metric with a range end inside it, and reach as far as
    conversations with its lowest or highest value that the sample does not have. In a mean of ratios, each gets one
    more conversation with _MORE right answers and one with as many wrong ones: enough for labels of which the sample
    has few or none (benchmarks/coverage.py).
    """
    value, highest = estimate.value, estimate.highest
    if estimate.is_rate:
        return Score(value, *wilson(value, effective_answers(estimate)))
    low, high = bounds(estimate.influence + value)
    if low is None or high is None or highest is None:
        return Score(value, low, high)
    below, above = (unseen_share(len(estimate.influence)) * size for size in (value, highest - value))
    if isinstance(estimate, MeanOfRatios):
        below = above = _half_width(estimate.parts((1.0, 0.0), _MORE), estimate.numerators.shape[1])
    return Score(value, max(0.0, min(low, value - below)), min(highest, max(high, value + above)))


def difference(better: Estimate, worse: Estimate, *, lower_is_better: bool) -> Difference:
    """Return the lead of `better` over `worse`, with its 95 % interval."""
    sign = -1.0 if lower_is_better else 1.0
    lead = sign * (better.value - worse.value)
    values = lead_values(better, worse, lower_is_better=lower_is_better)
    return Difference(lead, *bounds(values, highest=better.highest))


def lead_values(better: Estimate, worse: Estimate, *, lower_is_better: bool) -> Floats:
    """Return the values of a lead, shape (conversations,): their mean is the lead.

    Two rates get two more conversations, in each of which only one of them has it (Bonett and Price 2012), so that a
    lead of 0 among few conversations never has an interval without width.
    """
    sign = -1.0 if lower_is_better else 1.0
    if better.is_rate and worse.is_rate:
        better, worse = _with_invented(better, (1.0, 0.0)), _with_invented(worse, (0.0, 1.0))
    return sign * (better.influence - worse.influence + better.value - worse.value)


def values_over(
    rival: str, model: str, metric_name: str, metric: Metric, estimates: Mapping[str, Mapping[str, Estimate]]
) -> Floats:
    """Return the values of the lead of a model over a rival, by which the metric ranks them.

    estimates: by model, then by metric.
    """
    ours, theirs = (distance_from_ideal(estimates[name][metric_name], metric.ideal) for name in (model, rival))
    values = lead_values(ours, theirs, lower_is_better=metric.lower_is_better)
    return values if ours.is_rate and theirs.is_rate else _widened(values, _least_half_width(ours, theirs))


def unseen_share(conversations: int) -> float:
    """Return the share of all conversations that may have what none of a sample has: the upper bound of 0 of n."""
    return 1 - (1 - LEVEL) ** (1 / conversations)


def _least_half_width(ours: Estimate, theirs: Estimate) -> float:
    """Return how far the interval of a lead reaches at least.

    In an unseen conversation, one of the models has nothing of its value (a metric with a range), or is as far off as
    few conversations are. In a mean of ratios, two answers more are counted for each, in which only one model is right.
    """
    if isinstance(ours, MeanOfRatios) and isinstance(theirs, MeanOfRatios):
        return _half_width(ours.parts((1.0, 0.0)) - theirs.parts((0.0, 1.0)), ours.numerators.shape[1])
    has_range = ours.highest is not None and theirs.highest is not None
    sizes = [each.value if has_range else _FAR * float(each.influence.std()) for each in (ours, theirs)]
    return unseen_share(len(ours.influence)) * max(sizes)


def _half_width(parts: Floats, conversations: int) -> float:
    """Return half the width of the interval of a mean of ratios. parts: MeanOfRatios.parts, or a difference of them.

    Invented answers widen it, and do not change the value: over many rare labels, that would add up.
    """
    if conversations < 2:
        return 0.0
    measured = parts[:, :conversations].mean(0)
    invented = parts[:, conversations:] / len(parts)
    freedom = conversations - 1
    variance = float(measured @ measured) * conversations / freedom + float((invented**2).sum())
    return float(stdtrit(freedom, LEVEL)) * math.sqrt(variance)


def _widened(values: Floats, least: float) -> Floats:
    """Return the values, with their distances from the mean stretched until the interval by Student's t has at least
    this half width."""
    count = len(values)
    if count < 2:
        return values
    mean, deviation, _ = _moments(values)
    wanted = least * math.sqrt(count) / float(stdtrit(count - 1, LEVEL))
    if deviation >= wanted:
        return values
    alternating = np.resize((1.0, -1.0), count)  # equal values have no distances
    apart = values - mean if deviation else alternating - alternating.mean()
    return mean + apart * (wanted / float(apart.std(ddof=1)))


def _with_invented(estimate: Estimate, values: tuple[float, float]) -> Estimate:
    return Estimate(np.append(estimate.numerators, values), np.append(estimate.denominators, (1.0, 1.0)))


def bounds(
    values: Floats, level: float = LEVEL, *, highest: float | None = None
) -> tuple[float, float] | tuple[None, None]:
    """Return the lower and upper bound of the mean of some values, each with this level. (None, None) for one value.

    highest: the largest lead that there can be; None: it has no limit.
    """
    count = len(values)
    if count < 2:
        return None, None
    mean, deviation, skewness = _moments(values)
    plain = float(stdtrit(count - 1, level)) / math.sqrt(count)
    below, above = (_correct_skewness(side, skewness, count) for side in (plain, -plain))
    low, high = mean - deviation * max(plain, below), mean - deviation * min(-plain, above)
    return (low, high) if highest is None else (max(-highest, low), min(highest, high))


def _correct_skewness(quantile: float, skewness: float, count: int) -> float:
    """Return a quantile for skewed values (Hall 1992), as the given one in standard deviations of the values."""
    if abs(skewness) < _SYMMETRIC:
        return quantile
    return 3 / skewness * (float(np.cbrt(1 + skewness * (quantile - skewness / (6 * count)))) - 1)


def p_value(values: Floats) -> float | None:
    """Return the one-sided p-value of "the mean is at most 0"; None if the values do not differ, which proves nothing.

    It is the larger of those of Student's t and of Hall's skew-corrected t.
    """
    count = len(values)
    if count < 2:
        return None
    mean, deviation, skewness = _moments(values)
    if not deviation:
        return None
    q = mean / deviation
    corrected = q + skewness * q**2 / 3 + skewness**2 * q**3 / 27 + skewness / (6 * count)
    return float(stdtr(count - 1, -math.sqrt(count) * min(q, corrected)))


def _moments(values: Floats) -> tuple[float, float, float]:
    """Return (mean, standard deviation with divisor n - 1, skewness)."""
    mean = float(values.mean())
    centered = values - mean
    deviation = math.sqrt(float(centered @ centered) / (len(values) - 1))
    if deviation <= 1e-12 * max(1.0, abs(mean)):  # rounding: all values are equal
        return mean, 0.0, 0.0
    return mean, deviation, float((centered**3).mean()) / deviation**3


def effective_answers(estimate: Estimate) -> float:
    """Return how many independent answers a rate is worth: their number divided by the design effect.

    The design effect counts two more conversations, one all right and one all wrong, of the size that the conversation
    of an answer has on average: where few answers are wrong, it cannot be told from them alone. Being an estimate, it
    also widens the interval as Student's t does.
    """
    sizes, answers = estimate.denominators, float(estimate.denominators.sum())
    if sizes.max() <= 1:
        return answers
    size = float(sizes @ sizes) / answers
    more = Estimate(np.append(estimate.numerators, (size, 0.0)), np.append(sizes, (size, size)))
    count, total = len(more.denominators), float(more.denominators.sum())
    clustered = float(more.influence @ more.influence) / (count - 1) / count
    effect = clustered / (more.value * (1 - more.value) / total)
    normal, student = float(ndtri(LEVEL)), float(stdtrit(max(1, len(sizes) - 1), LEVEL))
    return answers / max(1.0, effect) * (normal / student) ** 2


def wilson(rate: float, count: float, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's bounds of a rate among `count` independent answers, each with this level."""
    z = float(ndtri(level))
    center, spread = rate + z**2 / (2 * count), z * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    # At 0 and 1 the rate is a bound itself, which rounding may miss.
    return max(0.0, min(rate, (center - spread) / scale)), min(1.0, max(rate, (center + spread) / scale))
