"""How often the test rows have been looked at, and how clear a lead must be because of it.

A look is one model under one prompt whose scores on the test rows were written. Who looks often enough finds a model
that is good on these rows alone, whether a decision asks about it or not. Of e looks before those that were compared
together with a candidate, and m of the latter, its lead counts if its p-value is at most
s · alpha / ((e + 1) · (e + 1 + m)). The levels of all looks add up to at most alpha, however many there are: they are
m / ((e + 1) · (e + 1 + m)) = 1 / (e + 1) - 1 / (e + 1 + m) of each group. s: the share of tuned models (2/3), or of
prompts and classifiers (1/3), which are counted apart: a tuned model must beat every prompt that is compared, so that
another one makes it no likelier to pass. A move of the champion starts the count again: what comes after is
compared with another model.

Levels of this kind assume that a model was not designed by what was seen. Who keeps each change that looks better on
these rows climbs about as fast as the needed lead grows, up to some 50 changes (benchmarks/looks.py). Therefore rows
are used up after USED_UP different settings; a training that is repeated with the same settings is no new design.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scipy.special import ndtri

from ft_pipeline.evaluation.comparison.score import Score

USED_UP = 40
"""Number of different settings from which on the rules promote nothing on these rows."""
SHARE_OF_TUNED = 2 / 3
"""Of the promised rate of false moves; prompts and classifiers have the rest."""


@dataclass(frozen=True)
class Tries:
    """What the test of one candidate must allow for. Looks count by the share of the present rows that they saw."""

    earlier: float = 0.0
    """Looks before those that were compared together with it."""
    together: int | None = None
    """Looks that were first compared together with it, its own included. None: those that are compared now."""
    designs: float = 0.0
    """Different settings among all of them but its own."""


@dataclass(frozen=True)
class Exposure:
    """The looks at the present test conversations."""

    rows: str = ""
    """Digest of the ids of the test conversations."""
    count: float = 0.0
    """Looks since the rules last moved the champion, on average over the conversations; without those compared now."""
    designs: float = 0.0
    """Different settings among them."""
    of: Mapping[str, Tries] = field(default_factory=dict)
    """By row name, what its test must allow for."""
    fresh_leads: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    """By candidate, then by rival, the lead on the test conversations that arrived after its settings first appeared,
    if these are enough."""
    test_share: float = 0.0
    """The share of new data that becomes test conversations; 0: none."""
    changes: Sequence[str] = ()
    """What a decision reads and was otherwise at the first look, as sentences with the old value."""

    def tries(self, row: str) -> Tries:
        """Return what the test of a row must allow for."""
        return self.of.get(row, Tries(self.count, None, self.designs))

    @property
    def is_used_up(self) -> bool:
        """Whether another result on these rows says little."""
        return is_used_up(self.designs)

    def level(self, false_moves: float, row: str, *, is_tuned: bool, present: int = 1) -> float:
        """Return the largest p-value that counts. present: the candidates of its kind that are compared now."""
        tries = self.tries(row)
        before, share = whole(tries.earlier) + 1, SHARE_OF_TUNED if is_tuned else 1 - SHARE_OF_TUNED
        return share * false_moves / (before * (before + (tries.together or max(present, 1))))


def whole(count: float) -> int:
    """Return a count as the next whole number. A sum of shares may exceed it by rounding."""
    return math.ceil(count - 1e-9)


def is_used_up(designs: float) -> bool:
    """Return whether so many different settings were looked at on the same rows that another result says little."""
    return whole(designs) >= USED_UP


def needed_lead(level: float) -> float:
    """Return the lead, in standard errors, that a p-value of this level needs."""
    return float(ndtri(1 - level))
