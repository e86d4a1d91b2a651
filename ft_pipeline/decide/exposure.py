"""How often the test rows have been used, and how clear a lead must be because of it.

A test of a candidate on rows that were used before may pass by chance: who tries often enough finds a model that is
good on these rows alone. With e earlier tests and m new ones, a lead counts if its p-value is at most
alpha / ((e + 1) · (e + 1 + m)). The levels of all tests add up to at most alpha, however many there are. A move of
the champion starts the count anew: what comes after is compared with another model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from scipy.special import ndtri

from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.store.hashing import sha256_of_json

USED_UP = 20
"""Number of tests from which on the rules promote nothing on these rows."""


@dataclass(frozen=True)
class Exposure:
    """The tests before this decision, on average over the present test conversations."""

    rows: str = ""
    """Digest of the ids of the test conversations."""
    count: float = 0.0
    """Number of tests that a conversation was part of since the rules last moved the champion."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """Of each test that was made, by its key: the level at which it was decided. It is never counted twice."""
    own: int = 0
    """Number of tests that this decision has recorded already. They count for those that are added to it."""
    fresh_leads: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    """By candidate, then by rival, the lead on the test conversations that arrived after its settings first appeared,
    if these are enough."""
    test_share: float = 0.0
    """The share of new data that becomes test conversations; 0: none."""

    @property
    def is_used_up(self) -> bool:
        """Whether another result on these rows says little."""
        return math.ceil(self.count) >= USED_UP

    def level(self, false_moves: float, tested: int) -> float:
        """Return the largest p-value that counts. tested: the number of new tests."""
        before = math.ceil(self.count + self.own) + 1
        return false_moves / (before * (before + max(tested, 1)))

    def describe_end(self, conversations: int, false_moves: float) -> str:
        """Return that the rows are used up, and how many new ones would help."""
        reopen = math.ceil(self.count * conversations / (USED_UP - 1)) - conversations
        now, halved = (
            needed_lead(replace(self, count=count).level(false_moves, 1)) for count in (self.count, self.count / 2)
        )
        share = self.test_share
        of_data = [f"{math.ceil(new / share):,}" for new in (reopen, conversations)] if share else []
        rows = f" At a test share of {share:.0%}, that is about {' or '.join(of_data)} new rows." if of_data else ""
        return (
            f"These {conversations} test conversations were part of {math.ceil(self.count)} tests since the champion "
            f"last moved; another result on them would say little. {reopen} fresh ones allow one more test, "
            f"{conversations} halve the count, and the needed lead falls from {now:.1f} to {halved:.1f} standard "
            f"errors.{rows}"
        )


def key_of_test(
    candidate: str, score: float, rivals: Mapping[str, float], rows: str, metric: str, rules: Sequence[str | None]
) -> str:
    """Return the identity of a test.

    candidate: its fingerprint. score: its value, which also changes with what the fingerprint does not name, such as
    the examples of a prompt. rivals: their scores, by name. rules: versions of the rules and of the measures.
    """
    return sha256_of_json([candidate, score, dict(sorted(rivals.items())), rows, metric, *rules])


def needed_lead(level: float) -> float:
    """Return the lead, in standard errors, that a p-value of this level needs."""
    return float(ndtri(1 - level))
