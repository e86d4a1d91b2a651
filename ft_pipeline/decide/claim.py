"""A claim: by how much a row is better than a rival on one measure in one scope, and whether that is enough.

Everything that is decided, recommended or told rests on claims. `sources/` makes them, the rules of `promote.py` and
`advise.py` ask for them, and `sentences.py` says them. Nothing else knows their numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.opinions.agreement import Agreement

Verdict = Literal["shown", "refuted", "open", "unknown", "void"]
"""shown: its bound is beyond the limit. refuted: the other bound is. open: it cannot be told. unknown: not measured.
void: the question does not arise, as a refusal that the base model never gave."""

MOST_QUESTIONS = 15_000
"""A suite of general questions hardly has more: MMLU has 14,042."""


class Facts(BaseModel):
    """Further numbers that the sentence of a claim names. The kind of the claim says which (FACTS)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_champion: bool = False
    """These three are added by a rule that does not accept the claim: whether the rival is the champion to beat, the
    tests that make the lead less certain, and the largest p-value that counts."""
    tries: str = ""
    level: float | None = None


class ChampionFacts(Facts):
    """About the champion, as far as the sentence names it."""

    experiment: str | None = None
    name: str = ""
    number: int = 0
    """Of the record with which a person rejected the row."""


class ExplainedFacts(Facts):
    """Facts with a reason."""

    because: str = ""
    """As a clause: why an opinion may decide, or why not; of an old comparison, why nothing is known."""


class OpinionFacts(ExplainedFacts):
    """What an opinion rests on."""

    rated: int
    """Pairs of answers that people rated, and that the judge compared, as far as this opinion uses them. Pairs of equal
    answers do not count."""
    judged: int
    alpha: Agreement | None = None
    """Of people with each other on these pairs; of a judge with people on all pairs that both compared."""
    may_decide: bool
    can_go_out: Score | None = None
    """The share of the rated pairs of which at least one answer can go out, with Wilson's interval."""
    changed: int | None = None
    """Pairs that were rated before an answer changed, and not since. Then the other ratings are no fair sample."""


class KeptFacts(ExplainedFacts):
    """What changed from the base model to the row."""

    lost: int = 0
    """Questions or documents with a worse result than that of the base model, and with a better one."""
    won: int = 0
    needed: int | None = None
    """Questions that would decide at the observed drop. None: no number would."""
    before: float | None = None
    """The value of the base model, and that of the row."""
    after: float | None = None
    is_rate: bool = True
    """Whether each answer is right or wrong."""
    wanted: str = ""
    """Of probes, what an answer must do."""
    base: str = ""


class RailFacts(Facts):
    """A fault of answers."""

    fault: str
    """What such an answer does."""
    faults: int


class RecipeFacts(Facts):
    """The lead of each training, and the lower one-sided 95 % bound of their mean."""

    leads: Sequence[float]
    lower: float | None = None


class ScreenFacts(Facts):
    """The standard error of the lead."""

    error: float


class ShareFacts(Facts):
    """The share of the best lead that must be kept, and what both lead."""

    wanted: float
    baseline: str


class SliceFacts(Facts):
    """How many more conversations would tell. None: more would hardly help."""

    more: int | None = None


class SliceLeadFacts(Facts):
    """The standard deviation over conversations, and how many of them a drop needs to be seen."""

    deviation: float
    unseen: float


FACTS: Mapping[str, type[Facts]] = {
    "champion": ChampionFacts,
    "opinion": OpinionFacts,
    "general": KeptFacts,
    "probes": KeptFacts,
    "task": KeptFacts,
    "rail": RailFacts,
    "recipe": RecipeFacts,
    "screen": ScreenFacts,
    "share": ShareFacts,
    "slice": SliceFacts,
    "slice_lead": SliceLeadFacts,
}
"""By kind of claim. The others have no facts of their own."""
Told = TypeVar("Told", bound=Facts)


class Claim(BaseModel):
    """A statement about a row: that a value is above a limit. Higher values are better for the row, except for rails,
    whose values are shares of faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """What it is about: a key of `sentences.SENTENCES`, before the point."""
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
    facts: SerializeAsAny[Facts] = Field(default_factory=Facts, validate_default=True)
    """Those of its kind, by FACTS."""

    @field_validator("facts", mode="before")
    @classmethod
    def _of_its_kind(cls, facts: Any, info: ValidationInfo) -> Any:
        own = FACTS.get(info.data.get("kind", ""), Facts)
        return own() if type(facts) is Facts and not facts.model_fields_set else own.model_validate(facts)

    def told(self, kind: type[Told]) -> Told:
        """Return its facts, which have this type."""
        assert isinstance(self.facts, kind), (self.kind, kind)
        return self.facts

    def to_json(self) -> dict[str, Any]:
        """Return the claim as plain JSON, without what is the default, and with the facts that were told."""
        document = self.model_dump(mode="json", exclude_defaults=True, exclude={"facts"})
        facts = self.facts.model_dump(mode="json", exclude_unset=True)
        return {**document, **({"facts": facts} if facts else {})}

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
        return self.model_copy(
            update={"verdict": verdict, "because": because, "facts": self.facts.model_copy(update=facts)}
        )


def more_would_decide(claim: Claim) -> bool:
    """Return whether more questions or documents would show what a row kept. No suite has all general questions."""
    needed = claim.told(KeptFacts).needed
    return needed is not None and (claim.kind != "general" or needed <= max(MOST_QUESTIONS, claim.count))


def verdict_of(low: float | None, high: float | None, limit: float = 0.0) -> Verdict:
    """Return what an interval shows: one rule for every claim with a rival."""
    if low is not None and low > limit:
        return "shown"
    return "refuted" if high is not None and high < limit else "open"
