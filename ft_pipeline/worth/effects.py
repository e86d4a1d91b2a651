"""What the rows of each group do for the answers to other rows.

The classifier learns with them and without them, and answers the same held-out rows: the effect is the share of right
answers with the group minus that without it. Two questions decide:

- Does the group harm? It does if the answers to the rows of the other groups are better without it. Its own rows are
  not asked about, whose labels may be wrong; and a label that it alone has is no answer, which would take some away
  from theirs.
- Is it needed? A loss of rows costs something whatever the rows are. So it is if the answers to its own rows, by its
  own labels, are worse without the rest of it than without as many rows of other groups, drawn at random. That does not
  show that its labels are right.

Intervals are paired and clustered as those of a comparison. Each of the two findings is wrong of any group in at most
2.5 % of the cases (Bonferroni): of groups that are filled by chance.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.evaluation.comparison.leads import Conversations, bounds, lead_values
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.rivals.label_model import Floats
from ft_pipeline.worth.cross_validation import Folds, Mask

Finding = Literal["harms", "needed", "open"]
Tell = Callable[[str, int, int], None]
"""Is told the name of a group, its place and the number of groups."""
ONE_SIDED = 0.025
"""The rate at which a group that does nothing is called harmful, and that at which one is called needed."""
NEXT, FEW = 100, 10
"""Rows that are added in the question where the next ones help, and those that a group must have for it."""


def tell_nothing(group: str, place: int, count: int) -> None:
    """Nobody waits for the answer."""


@dataclass(frozen=True)
class Effect:
    """What a group does: shares of right answers, each with its interval."""

    group: str
    rows: int
    effect: Score
    """With the group, minus without it, of the answers to all rows that people labeled."""
    for_others: Score | None
    """The same of the answers to rows of other groups. None: people labeled none of them."""
    over_others: Score | None
    """Without as many other rows, minus without the group, of the answers to its own rows. None: they are too few."""
    of_next: Score | None
    """What NEXT more rows of the group should bring. None: it has too few."""

    @property
    def finding(self) -> Finding:
        """What is shown of it."""
        if self.for_others is not None and self.for_others.high is not None and self.for_others.high < 0:
            return "harms"
        return "needed" if self.over_others is not None and self.over_others.is_clear else "open"


def effects_of(
    folds: Folds,
    whole: Floats,
    groups: Mapping[str, Mask],
    units: NDArray[np.int64],
    *,
    seed: int = 0,
    share: float = 1.0,
    asked: Mask | None = None,
    tell: Tell = tell_nothing,
) -> list[Effect]:
    """Return the effect of each group, in the order of the groups.

    whole: folds.probabilities(). units: of each row, for the intervals. share: of all rows, those that are looked at.
    asked: rows whose labels count as right; None: all.
    tell: called before the 3 × FOLDS × REPEATS trainings for each group.
    """
    generator, level, found = np.random.default_rng(seed), 1 - ONE_SIDED / max(1, len(groups)), list[Effect]()
    every = np.ones(len(units), bool) if asked is None else asked

    def lead(first: Floats, second: Floats, of: Mask) -> Score:
        right = [(each[:, of].argmax(axis=-1) == folds.labels[of]).mean(axis=0) for each in (first, second)]
        return _lead(right[0], right[1], units[of], level)

    for place, (name, members) in enumerate(groups.items(), 1):
        tell(name, place, len(groups))
        count, without = int(members.sum()), folds.probabilities(members)
        of_others = np.isin(np.arange(len(folds.names)), folds.labels[~members])
        others, own, over_others = every & ~members, every & members, None
        for_others = lead(whole * of_others, without * of_others, others) if others.any() else None
        if 2 * count <= len(members) and own.any():
            over_others = lead(folds.probabilities(_as_many(~members, members, folds, generator)), without, own)
        of_next = None
        if count >= FEW:
            halved = folds.probabilities(np.array([_some(members, count // 2, generator) for _ in folds.fold])[:, None])
            of_next = _of_next(lead(whole, halved, every), count, share)
        found.append(Effect(name, count, lead(whole, without, every), for_others, over_others, of_next))
    return found


def _as_many(others: Mask, members: Mask, folds: Folds, generator: np.random.Generator) -> Mask:
    """Return, of the rows that a model learns from, as many others as there are members: repeats × folds × rows."""
    learned = ~folds.held()
    drawn = [
        _some(others & of_fold, min(int((members & of_fold).sum()), int((others & of_fold).sum())), generator)
        for of_repeat in learned
        for of_fold in of_repeat
    ]
    return np.array(drawn).reshape(learned.shape)


def _some(members: Mask, count: int, generator: np.random.Generator) -> Mask:
    """Return so many of the members, drawn at random."""
    chosen = np.zeros(len(members), bool)
    chosen[generator.choice(np.flatnonzero(members), count, replace=False)] = True
    return chosen


def _lead(first: Floats, second: Floats, units: NDArray[np.int64], level: float) -> Score:
    """Return by how much the first answers are right more often, with bounds of this level each.

    first, second: of each row, how often its answers are right over the repeats. A unit of usual size weighs 1, as the
    two that `lead_values` invents do.
    """
    values = np.column_stack([first, second]).astype(np.float64)
    size = len(units) / len(np.unique(units))
    shares = Conversations([str(unit) for unit in units]).ratios(
        values / size, np.full_like(values, 1 / size), is_rate=True
    )
    leads = lead_values(*shares, lower_is_better=False)
    return Score(float(first.mean() - second.mean()), *bounds(leads, level, highest=1.0))


def _of_next(of_half: Score, rows: int, share: float) -> Score:
    """Return what NEXT more rows should bring, if the share of right answers grows with the logarithm of their number.

    of_half: what half of the rows brought. share: of the rows of the group, those that are looked at.
    """
    times = math.log1p(NEXT * share / rows) / math.log(rows / (rows - rows // 2))
    value, low, high = (
        None if end is None else min(1.0, max(-1.0, times * end)) for end in (of_half.value, of_half.low, of_half.high)
    )
    assert value is not None
    return Score(value, low, high)
