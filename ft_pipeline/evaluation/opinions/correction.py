"""The share of comparisons that a model wins, from verdicts of people, of a judge, or of both.

People's verdicts on a random part of the pairs correct those of a judge on all of them: the prediction-powered estimate
(Angelopoulos et al. 2023), with the weight of the judge that gives the smallest variance. A judge that leans to one
side makes the interval wider, and never wrong.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from ft_pipeline.evaluation.comparison.leads import LEVEL, bounds, p_value

Floats = NDArray[np.float64]
_TIE = 0.5
_INVENTED = (1.0, 0.0)
"""Where all verdicts are the same: two more conversations, one won and one lost, so that the interval has a width."""
_ROUNDING = 1e-12
"""Up to this sum of squares, the scores of a judge are all the same, and the rest is rounding."""


class WinRate(NamedTuple):
    """A share of wins with its 95 % interval, and the one-sided p-value of "at most half"."""

    value: float
    low: float | None
    high: float | None
    p: float | None


def win_rate(scores: Floats) -> WinRate:
    """Return the share of wins of one kind of verdicts, by the statistic of all leads.

    scores: of each conversation, from 0 (lost) to 1 (won).
    """
    spread = np.append(scores, _INVENTED) if np.ptp(scores) == 0 else scores
    low, high = bounds(spread)
    return WinRate(float(scores.mean()), _inside(low), _inside(high), p_value(spread - _TIE))


def corrected_win_rate(people: Floats, judge: Floats, judge_of_all: Floats) -> WinRate:
    """Return the share of wins by people's verdicts, with those of a judge where people gave none.

    people, judge: scores of the conversations that people rated, shape (m,). judge_of_all: those of all conversations
    that the judge compared, shape (N,).
    """
    if len(people) <= 2:
        return win_rate(people)
    if np.ptp(people) == 0:
        people, judge, judge_of_all = (np.append(scores, _INVENTED) for scores in (people, judge, judge_of_all))
    values, errors = prediction_powered(people, judge, judge_of_all)
    value, error, freedom = float(values), float(errors), len(people) - 2
    half_width = float(stdtrit(freedom, LEVEL)) * error
    p = float(stdtr(freedom, -(value - _TIE) / error))
    return WinRate(value, _inside(value - half_width), _inside(value + half_width), p)


def prediction_powered(people: Floats, judge: Floats, judge_of_all: Floats) -> tuple[Floats, Floats]:
    """Return (estimate, standard error) of the mean. The conversations are the last axis of each array.

    Arguments as in corrected_win_rate. The errors have len(people) - 2 degrees of freedom.
    """
    rated, judged = people.shape[-1], judge_of_all.shape[-1]
    centered, of_judge = (values - values.mean(-1, keepdims=True) for values in (people, judge))
    spread = (of_judge**2).sum(-1)
    varies = spread > _ROUNDING
    weight = np.divide((centered * of_judge).sum(-1), spread, out=np.zeros_like(spread), where=varies)
    estimate = people.mean(-1) + weight * (judge_of_all.mean(-1) - judge.mean(-1))
    rest = ((centered - weight[..., None] * of_judge) ** 2).sum(-1) / (rated - 2)
    variance = (centered**2).sum(-1) / (rated - 2) / judged + (1 / rated - 1 / judged) * rest
    return estimate, np.sqrt(variance)


def length_adjusted(scores: Floats, log_lengths: Floats) -> float:
    """Return the share of wins that a line through the scores has for answers of equal length.

    log_lengths: of each pair, the logarithm of (bytes of the candidate's answer / bytes of the rival's).
    """
    centered = log_lengths - log_lengths.mean()
    spread = float(centered @ centered)
    slope = float(centered @ scores) / spread if not math.isclose(spread, 0.0, abs_tol=1e-12) else 0.0
    return float(scores.mean() - slope * log_lengths.mean())


def _inside(bound: float | None) -> float | None:
    return None if bound is None else min(1.0, max(0.0, bound))
