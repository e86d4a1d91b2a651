"""The slices of a comparison, for pages: the leads of one row in parts of the test conversations."""

from collections.abc import Sequence
from dataclasses import dataclass

from ft_pipeline.decide.claim import Claim, SliceLeadFacts
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.sentences import ENOUGH, describe_slices, digits_of, say
from ft_pipeline.evaluation.comparison.result_records import Slice
from ft_pipeline.evaluation.comparison.score import describe_interval


@dataclass(frozen=True)
class SlicesOfRow:
    """The slices of a comparison with the leads of one row."""

    comparison: Comparison
    row: str
    slices: Sequence[Slice]
    leads: Sequence[Claim]
    checks: Sequence[Claim]
    digits: int
    """Decimals of a lead."""

    @property
    def rivals(self) -> list[str]:
        """The rivals, the champion first."""
        return list(dict.fromkeys(lead.rival for lead in self.leads))

    @property
    def worse(self) -> list[Claim]:
        """The leads in slices that are worse, the surest first."""
        return sorted((lead for lead in self.leads if is_worse(lead)), key=lambda lead: (lead.p or 0.0, lead.scope))

    def lead(self, slice_name: str, rival: str) -> Claim | None:
        """Return the lead over a rival in a slice; None if it has too few conversations."""
        return next((lead for lead in self.leads if (lead.scope, lead.rival) == (slice_name, rival)), None)

    @property
    def listed(self) -> list[Slice]:
        """The slices worth a line: those that were compared, and those of the project's rules."""
        compared = {lead.scope for lead in self.leads}
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
                    self._lead(lead) + (" worse" if is_worse(lead) else "") if lead else ""
                    for lead in (self.lead(entry.name, rival) for rival in self.rivals)
                ],
            )
            for entry in self.listed
        ]

    def describe_worse(self) -> str:
        """Return where the row is worse, as part of a sentence; empty if it is worse nowhere."""
        return describe_slices(self.comparison, self.worse)

    def _lead(self, lead: Claim) -> str:
        """Return a lead with its interval."""
        return f"{lead.value:+.{self.digits}f} (95 %: {describe_interval(lead.low, lead.high, self.digits, sign='+')})"

    def sentences(self) -> list[str]:
        """Return what the slices show: where the row is worse, or what would not have shown, then what must hold."""
        return [f"{self.row} is {self._finding()}.", *self._too_small(), *self._not_listed(), *self._checks()]

    def _finding(self) -> str:
        if worse := self.describe_worse():
            return worse
        if not self.leads:
            return f"compared in no part: none has {ENOUGH} conversations"
        # A rule of the project is what its people look at; the smallest slice hides the largest drop.
        hidden = min(self.leads, key=lambda lead: (not self._is_rule(lead.scope), lead.count, lead.scope))
        told = hidden.told(SliceLeadFacts)
        drop = f"{told.unseen:.2g} sd ({told.unseen * told.deviation:.{self.digits}f})"
        return (
            f"in no part clearly worse than {' or '.join(self.rivals)}; in {hidden.scope} "
            f"({hidden.count:,}) a drop under {drop} would not have shown"
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
        shown = [say(self.comparison, check) for check in self.checks if check.rival in rivals]
        return [
            f"{self.row}{'' if sentence.startswith('holds') else ':'} {sentence}." for sentence in dict.fromkeys(shown)
        ]


def is_worse(lead: Claim) -> bool:
    """Return whether a row is worse in a slice."""
    return lead.verdict == "refuted"


def slices_of(comparison: Comparison, row: Row | None = None) -> SlicesOfRow | None:
    """Return the slices of a comparison with the leads of a row. None if there are no slices.

    row: if its leads were not computed, as those of a champion that stays, it is the best tuned row.
    """
    compared = [entry for entry in comparison.ranked() if comparison.about(entry, "slice_lead")]
    # Without any lead, it is the form of a model that is released.
    known = compared or sorted(comparison.ranked(), key=lambda entry: entry.kind != "merged")
    rows = [entry for entry in known if row is not None and entry.name == row.name]
    rows += [*(entry for entry in known if entry.rights.is_tuned), *known]
    if not comparison.slices or not rows:
        return None
    chosen, digits = rows[0], digits_of(comparison.primary)
    leads, checks = comparison.about(chosen, "slice_lead"), comparison.about(chosen, "slice")
    return SlicesOfRow(comparison, chosen.name, comparison.slices, leads, checks, digits)


def _count(conversations: int) -> str:
    return f"{conversations:,} conversation{'' if conversations == 1 else 's'}"
