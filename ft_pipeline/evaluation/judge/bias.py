"""What the verdicts of a judge show, and how far it can be trusted: order, length, replies without a verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ft_pipeline.evaluation.comparison.leads import Conversations, bounds, interval, unit_of
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.opinions import correction

SIMILAR_LENGTH = 0.2
"""Share of the longer answer by which the lengths of two answers may differ and still count as similar."""
Judgement = Mapping[str, Any]
"""A row of judgements.parquet, with the cluster of its conversation."""


def report_on(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return the numbers that are always shown with verdicts. Those that cannot be computed are None.

    Equal answers count as ties. The judge was not asked about them, so they say nothing about its replies.
    """
    asked = [row for row in judgements if row["candidate_answer"] != row["rival_answer"]]
    similar = [row for row in judgements if _is_similar(row["candidate_bytes"], row["rival_bytes"])]
    return {
        "judged": len(judgements),
        "identical": len(judgements) - len(asked),
        "win_rate": _win_rate(judgements),
        "same_in_both_orders": _share([row["first"] == row["second"] for row in asked]),
        "first_position_wins": _first_position_wins(asked),
        "unparsable": _share([row["unparsable"] / 2 for row in asked]),
        "similar_length": {"judged": len(similar), "win_rate": _win_rate(similar)},
        "length_adjusted": length_adjusted(judgements),
    }


def length_adjusted(judgements: Sequence[Judgement]) -> float | None:
    """Return the win rate at equal lengths: ½ plus the intercept of (score - ½) regressed on log(bytes of the candidate
    / bytes of the rival); None without verdicts.

    Dubois et al. 2024, "Length-Controlled AlpacaEval", with a plain regression.
    """
    if not judgements:
        return None
    ratios = [math.log(max(1, row["candidate_bytes"]) / max(1, row["rival_bytes"])) for row in judgements]
    scores = np.array([row["score"] for row in judgements])
    return min(1.0, max(0.0, correction.length_adjusted(scores, np.array(ratios))))


def _is_similar(first: int, second: int) -> bool:
    return abs(first - second) <= SIMILAR_LENGTH * max(first, second)


def _share(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _win_rate(judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    """Return the mean score with its 95 % interval over clusters; None without verdicts."""
    if not judgements:
        return None
    scores = np.array([[row["score"]] for row in judgements])
    [estimate] = Conversations([unit_of(row) for row in judgements]).means(scores)
    return asdict(Score(estimate.value, *bounds(estimate.influence + estimate.value)))


def _first_position_wins(judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    """Return the share of verdicts other than "same" that prefer the answer shown first, with Wilson's interval."""
    # The candidate is shown first in `first`, and second in `second`.
    decided = np.array([[float(row["first"] != 0.5) + float(row["second"] != 0.5)] for row in judgements])
    wins = np.array([[float(row["first"] == 1.0) + float(row["second"] == 0.0)] for row in judgements])
    if not decided.sum():
        return None
    [estimate] = Conversations([unit_of(row) for row in judgements]).ratios(wins, decided, is_rate=True)
    return asdict(interval(estimate))
