"""A claim: by how much a row is better than a rival on one measure in one scope, and whether that is enough.

Everything that is decided, recommended or told rests on claims. `sources/` makes them, the rules of `promote.py` and
`advise.py` ask for them, and `words.py` says them. Nothing else knows their numbers.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

Verdict = Literal["shown", "refuted", "open", "unknown", "void"]
"""shown: its bound is beyond the limit. refuted: the other bound is. open: it cannot be told. unknown: not measured.
void: the question does not arise, as a refusal that the base model never gave."""


class Claim(BaseModel):
    """A statement about a row: that a value is above a limit. Higher values are better for the row, except for rails,
    whose values are shares of faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """What it is about: a key of `words.SENTENCES`, before the point."""
    row: str
    rival: str = ""
    measure: str = ""
    """A metric, or the name of a rail, of probes, of a task, or `people` or `judge`."""
    scope: str = ""
    """Empty for all test conversations, or `validation`, or the name of a slice."""
    value: float | None = None
    low: float | None = None
    """The ends of the interval, at the level of the kind. None: a single conversation shows no spread."""
    high: float | None = None
    limit: float = 0.0
    p: float | None = None
    """One-sided, of "the row is not better". None: not tested, or the same in every conversation."""
    count: int = 0
    """Conversations, questions or pairs that it was measured on."""
    verdict: Verdict = "open"
    because: str = ""
    """Which of the sentences of its kind tells it, if its verdict is not enough."""
    facts: Mapping[str, Any] = {}
    """Further numbers that its sentence names."""

    @property
    def holds(self) -> bool:
        """Whether it stands in the way of nothing."""
        return self.verdict in ("shown", "void")

    @property
    def is_ahead(self) -> bool:
        """Whether its value is above the limit, by chance or not."""
        return self.value is not None and self.value > self.limit

    @property
    def reversed(self) -> Self:
        """The same from the side of the rival. A one-sided test says nothing about it."""
        verdict = {"shown": "refuted", "refuted": "shown"}.get(self.verdict, self.verdict)
        low, high = (None if end is None else -end for end in (self.high, self.low))
        value = None if self.value is None else -self.value
        changed = {"row": self.rival, "rival": self.row, "value": value, "low": low, "high": high, "p": None}
        return self.model_copy(update={**changed, "verdict": verdict})

    def failing(self, because: str, **facts: Any) -> Self:
        """The same claim, which a rule does not accept."""
        verdict = "open" if self.holds else self.verdict
        return self.model_copy(update={"verdict": verdict, "because": because, "facts": {**self.facts, **facts}})


def verdict_of(low: float | None, high: float | None, limit: float = 0.0) -> Verdict:
    """Return what an interval shows: one rule for every claim with a rival."""
    if low is not None and low > limit:
        return "shown"
    return "refuted" if high is not None and high < limit else "open"
