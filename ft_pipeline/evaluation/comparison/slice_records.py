"""What comparison.json says of slices: parts of the test conversations, each with its own lead."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ft_pipeline.evaluation.comparison.json_record import JsonRecord
from ft_pipeline.evaluation.comparison.lead_records import lead_digits
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.comparison.score import describe_interval
from ft_pipeline.evaluation.model_kinds import TUNED

if TYPE_CHECKING:
    from ft_pipeline.evaluation.comparison.records import Comparison

Kind = Literal["rule", "tag", "source", "language", "length", "turns"]
"""What a slice is defined on. `rule`: `evaluation.slices` of the project."""
ENOUGH = 20
"""Conversations from which on a slice is compared. Of a smaller one, only the size is shown."""
NAMED = 3
"""Largest number of slices that one sentence names."""


@dataclass(frozen=True)
class Slice(JsonRecord):
    """A part of the test conversations."""

    name: str
    kind: Kind
    about: str
    """What its conversations share, as the end of "conversations …"."""
    conversations: int


@dataclass(frozen=True)
class SliceLead(JsonRecord):
    """The lead of a row over a rival in a slice of at least ENOUGH conversations, on the primary metric."""

    row: str
    rival: str
    slice: str
    conversations: int
    """Those in which the metric is measured."""
    lead: float
    low: float | None
    """The ends of its plain 95 % interval, which is not adjusted for the number of slices."""
    high: float | None
    p: float | None
    """One-sided, of "it is not worse". None: the lead is the same in every conversation."""
    is_worse: bool
    """Whether it is worse at a false discovery rate of 5 % over all slices and rivals of the row."""
    deviation: float
    """Standard deviation of the lead over the conversations."""
    unseen: float
    """A drop of so many standard deviations would have shown in 80 % of the cases; a smaller one in fewer."""

    def describe(self, digits: int) -> str:
        """Return the lead with its interval."""
        return f"{self.lead:+.{digits}f} (95 %: {describe_interval(self.low, self.high, digits, sign='+')})"


@dataclass(frozen=True)
class SliceCheck(JsonRecord):
    """Whether a row is shown not to be worse than a rival in a slice that must hold."""

    row: str
    rival: str
    slice: str
    conversations: int
    lead: float | None
    """None for fewer than ENOUGH conversations."""
    low: float | None
    """Lower one-sided 95 % bound of the lead."""
    margin: float
    """By how much it may be worse, in units of the metric."""
    more: int | None
    """About how many more conversations would tell. None: more would hardly help, since it is behind by the margin, or
    since the metric says nothing about the two."""

    @property
    def is_shown(self) -> bool:
        """Whether it is shown that the row is not worse by more than the margin."""
        return self.low is not None and self.low > -self.margin

    def describe(self, digits: int) -> str:
        """Return what is known, as part of a sentence."""
        if not self.conversations:
            return (
                f"whether it holds in {self.slice} cannot be told: no test conversation is in this slice. Correct its "
                "rule, or add such rows"
            )
        named = f"{self.slice} ({_count(self.conversations)})"
        if self.lead is None and self.more is None:
            return (
                f"whether it holds in {named} against {self.rival} cannot be told: the likelihood says nothing about "
                "the two. Set `decides: true` for a check"
            )
        if self.lead is None or self.low is None:
            return f"whether it holds in {named} cannot be told: {ENOUGH} are needed, about {self.more} more"
        numbers = (
            f"its lead over {self.rival} is {self.lead:+.{digits}f} (at least {self.low:+.{digits}f}; "
            f"{-self.margin:.{digits}f} is the limit)"
        )
        if self.is_shown:
            return f"holds in {named}: {numbers}"
        more = "more conversations would hardly help" if self.more is None else f"about {self.more:,} more would tell"
        return f"whether it holds in {named} cannot be told: {numbers}; {more}"


@dataclass(frozen=True)
class SlicesOfRow:
    """The slices of a comparison with the leads of one row."""

    row: str
    slices: Sequence[Slice]
    leads: Sequence[SliceLead]
    checks: Sequence[SliceCheck]
    digits: int
    """Decimals of a lead."""

    @property
    def rivals(self) -> list[str]:
        """The rivals, the champion first."""
        return list(dict.fromkeys(lead.rival for lead in self.leads))

    @property
    def worse(self) -> list[SliceLead]:
        """The leads in slices that are worse, the surest first."""
        return sorted((lead for lead in self.leads if lead.is_worse), key=lambda lead: (lead.p or 0.0, lead.slice))

    def lead(self, slice_name: str, rival: str) -> SliceLead | None:
        """Return the lead over a rival in a slice; None if it has too few conversations."""
        return next((lead for lead in self.leads if (lead.slice, lead.rival) == (slice_name, rival)), None)

    @property
    def listed(self) -> list[Slice]:
        """The slices worth a line: those that were compared, and those of the project's rules."""
        compared = {lead.slice for lead in self.leads}
        return [entry for entry in self.slices if entry.kind == "rule" or entry.name in compared]

    def table(self) -> list[tuple[str, str, int, list[str]]]:
        """Return a line per listed slice: its name, what is in it, its size, and the lead over each rival, which is
        empty for a slice of few conversations."""
        return [
            (
                entry.name,
                f"conversations {entry.about}",
                entry.conversations,
                [
                    lead.describe(self.digits) + (" worse" if lead.is_worse else "") if lead else ""
                    for lead in (self.lead(entry.name, rival) for rival in self.rivals)
                ],
            )
            for entry in self.listed
        ]

    def describe_worse(self) -> str:
        """Return where the row is worse, as part of a sentence; empty if it is worse nowhere."""
        named = [
            f"in {lead.slice} ({_count(lead.conversations)}) than {lead.rival}: {lead.describe(self.digits)}"
            for lead in self.worse[:NAMED]
        ]
        others = len(self.worse) - len(named)
        return (
            "; ".join(["worse " + named[0], *named[1:]]) + (f"; and {others} more" if others else "") if named else ""
        )

    def sentences(self) -> list[str]:
        """Return what the slices show: where the row is worse, or what would not have shown, then what must hold."""
        return [f"{self.row} is {self._finding()}.", *self._too_small(), *self._not_listed(), *self._checks()]

    def _finding(self) -> str:
        if worse := self.describe_worse():
            return worse
        if not self.leads:
            return f"compared in no part: none has {ENOUGH} conversations"
        # A rule of the project is what its people look at; the smallest slice hides the largest drop.
        hidden = min(self.leads, key=lambda lead: (not self._is_rule(lead.slice), lead.conversations, lead.slice))
        drop = f"{hidden.unseen:.2g} sd ({hidden.unseen * hidden.deviation:.{self.digits}f})"
        return (
            f"in no part clearly worse than {' or '.join(self.rivals)}; in {hidden.slice} "
            f"({hidden.conversations:,}) a drop under {drop} would not have shown"
        )

    def _is_rule(self, name: str) -> bool:
        return any(entry.kind == "rule" for entry in self.slices if entry.name == name)

    def _too_small(self) -> list[str]:
        """Return a sentence for each rule of the project whose slice is too small."""
        small = [entry for entry in self.slices if entry.kind == "rule" and entry.conversations < ENOUGH]
        return [
            f"The slice {entry.name} has {_count(entry.conversations)}, and {ENOUGH} are needed to compare it."
            if entry.conversations
            else f"No test conversation is in the slice {entry.name}. Correct its rule, or add such rows."
            for entry in small
        ]

    def _not_listed(self) -> list[str]:
        count = len(self.slices) - len(self.listed)
        slices = "1 other slice has" if count == 1 else f"{count} other slices have"
        return (
            [f"{slices} fewer than {ENOUGH} conversations, and {'is' if count == 1 else 'are'} not shown."]
            if count
            else []
        )

    def _checks(self) -> list[str]:
        rivals = self.rivals or [check.rival for check in self.checks[:1]]
        shown = [check.describe(self.digits) for check in self.checks if check.rival in rivals]
        return [
            f"{self.row}{'' if sentence.startswith('holds') else ':'} {sentence}." for sentence in dict.fromkeys(shown)
        ]


def slices_of(comparison: "Comparison", row: ComparisonRow | None = None) -> SlicesOfRow | None:
    """Return the slices of a comparison with the leads of a row. None if there are no slices.

    row: if its leads were not computed, as those of a champion that stays, it is the best tuned row.
    """
    with_leads = {lead.row for lead in comparison.slice_leads}
    compared = [entry for entry in comparison.ranked() if entry.name in with_leads]
    # Without any lead, it is the form of a model that is released.
    known = compared or sorted(comparison.ranked(), key=lambda entry: entry.kind != "merged")
    rows = [entry for entry in known if row is not None and entry.name == row.name]
    rows += [*(entry for entry in known if entry.kind in TUNED), *known]
    if not comparison.slices or not rows:
        return None
    name = rows[0].name
    leads = [lead for lead in comparison.slice_leads if lead.row == name]
    checks = [check for check in comparison.slice_checks if check.row == name]
    return SlicesOfRow(name, comparison.slices, leads, checks, lead_digits(comparison.primary_metric))


def _count(conversations: int) -> str:
    return f"{conversations:,} conversation{'' if conversations == 1 else 's'}"
