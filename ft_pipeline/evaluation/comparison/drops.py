"""How much a tuned model loses against its own base model on the same questions: the rule of everything it must keep.

It keeps what it had if the upper one-sided 95 % bound of the drop is below a margin, and has lost it if the lower bound
is above it. Otherwise it cannot be told.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ft_pipeline.evaluation.comparison.leads import Estimate, bounds, lead_values

LEVEL = 0.95
"""Level of each bound of the drop: one-sided, because only a drop matters."""
POWER = 6.2
"""(1.645 + 0.842)². To show in 80 % of the cases that nothing was lost, so many questions are needed: POWER · mean
square of the differences / margin². Of rates, that is the share of questions whose result changed."""


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
    """Number of questions that would show in 80 % of the cases that nothing is lost. None for a margin of 0."""
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
        math.ceil(round(POWER * float(np.mean(values**2)) / margin**2, 6)) if margin else None,
        "kept" if high < margin else "lost" if low > margin else "cannot be told",
    )
