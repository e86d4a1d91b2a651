"""How much a tuned model loses against its own base model on the same questions: the rule of everything it must keep.

It keeps what it had if the upper one-sided 95 % bound of the drop is below a margin, and has lost it if the lower bound
is above it. Otherwise it cannot be told.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ft_pipeline.evaluation.comparison.leads import Estimate, Floats, bounds, lead_values

LEVEL = 0.95
"""Level of each bound of the drop: one-sided, because only a drop matters."""
POWER = 6.2
"""(1.645 + 0.842)²: the squared standard errors that must lie between a drop and the margin, so that the upper 95 %
bound is below the margin in 80 % of the cases."""


@dataclass(frozen=True)
class Drop:
    """What a tuned model loses."""

    count: int
    """Number of questions."""
    lost: int
    """Number of questions on which it is worse than its base model."""
    won: int
    """The reverse."""
    drop: float
    """Mean, positive for a loss. Of rates, one question is added to `lost` and one to `won`."""
    low: float
    """Lower one-sided 95 % bound of the drop."""
    high: float
    wanted: int | None
    """See questions_to_decide."""
    verdict: Literal["kept", "lost", "cannot be told"]


def drop_between(base: Estimate, tuned: Estimate, margin: float, *, lower_is_better: bool = False) -> Drop | None:
    """Return the drop from a base model to a tuned one, from both's answers to the same questions, each of which is a
    conversation of its own, of one item. None for a single question without right and wrong, which shows nothing."""
    values = lead_values(base, tuned, lower_is_better=lower_is_better)
    low, high = bounds(values, LEVEL)
    if low is None or high is None:
        return None
    worse = (tuned.numerators - base.numerators) if lower_is_better else (base.numerators - tuned.numerators)
    return Drop(
        len(worse),
        int((worse > 0).sum()),
        int((worse < 0).sum()),
        float(np.mean(values)),
        low,
        high,
        questions_to_decide(values, margin),
        "kept" if high < margin else "lost" if low > margin else "cannot be told",
    )


def questions_to_decide(values: Floats, margin: float) -> int | None:
    """Return how many questions show in 80 % of the cases that the drop is below the margin, if the true drop is the
    observed one, d. None if d is not below the margin, by a hundredth of it: then no number does.

    The values have the variance s², of one question. With N questions the drop has the standard error s/√N, and its
    upper bound, d + 1.645 s/√N, varies by as much. So it is below the margin in 80 % of the cases if 0.842 s/√N fit
    between them: margin - d = (1.645 + 0.842) s/√N, from which N = POWER s² / (margin - d)². Of rates, s² is about the
    share of questions whose result changed.
    """
    room = margin - float(np.mean(values))
    return math.ceil(round(POWER * float(np.var(values, ddof=1)) / room**2, 6)) if room > margin / 100 else None
