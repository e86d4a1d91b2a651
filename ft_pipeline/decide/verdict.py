"""The verdict: what to do, in one sentence for readers without statistics. It follows from the decision."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

from scipy.special import ndtri

from ft_pipeline.decide import without_model
from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import BY, Comparison, Row
from ft_pipeline.decide.exposure import needed_lead
from ft_pipeline.decide.promote import Decision
from ft_pipeline.decide.units import IN_PERCENT, IN_POINTS, lead_scale
from ft_pipeline.decide.words import (
    agreement,
    ask_for_ratings,
    describe_lead,
    describe_prices,
    say,
    say_of,
    who_of,
    wins,
)
from ft_pipeline.evaluation.comparison.likelihood_evidence import why_no_evidence
from ft_pipeline.evaluation.metrics.definitions import SHARE_OF_FIELDS

Kind = Literal["use_tuned", "prompt", "retrieval", "undecided", "keep", "none", "replace", "classifier", "search"]
POWER = float(ndtri(0.8))
"""A number of conversations "would decide" if it shows the present lead in 80 % of the cases."""
HALF_WIDTH = float(ndtri(0.975))
"""Standard errors from a lead to the end of its 95 % interval."""
RIGHT = {
    "exact_match": "are exact",
    "fields_match": "have the right fields",
    "format_valid": "have the right format",
    "call_names": "call the right tools",
    "call_arguments": "have the right calls",
    "call_order": "have the right calls in their order",
}
TWO_KEYS = (
    "Decided by two things: how well it predicts people's answers, and how similar its own answers are to them. "
    "Neither says how many answers are right."
)


@dataclass(frozen=True)
class Verdict:
    """What to do."""

    kind: Kind
    sentence: str
    basis: str
    """What it rests on: how many trainings, and what decided. Empty if nothing was compared."""
    row: str | None
    """The row that it names."""

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """What the verdict is made from."""

    comparison: Comparison
    decision: Decision
    champion: Row | None
    has_champion: bool
    last_reason: str = ""
    """Of the decision, as `reasons` tells it."""

    def verdict(self) -> Verdict:
        comparison = self.comparison
        if self.decision.move:
            moved = comparison.row(self.decision.name)
            found = self._still_open(moved) or self._use(moved)
        elif self.champion is not None:
            found = self._still_open(self.champion) or self._keep(self.champion)
        elif self.has_champion:
            return Verdict("keep", f"Keep the present model: it was not compared. {self.last_reason}.", "", None)
        else:
            return self._tuned_or_prompt()
        incumbent, own = comparison.incumbent, comparison.row(found.row)
        if incumbent is None or own is None or own.name == incumbent.name or found.kind in ("undecided", "none"):
            return found
        return self._against_incumbent(own, incumbent)

    # --- each case

    def _still_open(self, prompt: Row | None) -> Verdict | None:
        """Return what is not decided about the best tuned model though a prompt becomes or stays the champion; None if
        nothing is. That a prompt beats the plain base model says nothing about tuning."""
        tuned = self._best_examined
        if prompt is None or not prompt.rights.is_bar or not self.comparison.usable(prompt) or tuned is None:
            return None
        failed = self.decision.failed[tuned.name]
        if not failed or any(claim.because == "rejected" for claim in failed):
            return None
        found = self._lost_by_merging() if _is_it(failed) else self._tuned_or_prompt()
        if found is None or found.kind != "undecided":
            return None
        return replace(found, sentence=f"{found.sentence} Until then, {prompt.name} is the champion.")

    def _use(self, row: Row | None) -> Verdict:
        assert row is not None
        without = row.rights.without_model
        rival = without_model.with_model(self.comparison) if without else self.comparison.best_bar(row)
        if rival is None or rival.name == row.name:
            plain = (base for base in self.comparison.rows if base.kind == "base" and base.name != row.name)
            rival = next(plain, None)
        words, opinion = (self._win(row, rival), self._opinion(row, rival)) if rival else ("", None)
        number, basis = f": {words}" if words else "", self._basis(row, opinion)
        if without:
            return Verdict("classifier", without_model.enough(row, words), basis, row.name)
        if row.rights.is_tuned:
            prompted = f" with the prompt variant {row.variant}" if row.variant else ""
            return Verdict("use_tuned", f"Use the fine-tuned model {row.name}{prompted}{number}.", basis, row.name)
        if row.passages:
            return Verdict("retrieval", f"Look facts up, as {row.name} does{number}.", basis, row.name)
        return Verdict("prompt", f"Do not fine-tune; prompt it as {row.name}{number}.", basis, row.name)

    def _keep(self, champion: Row) -> Verdict:
        comparison = self.comparison
        if not comparison.usable(champion):
            why = f"The present model ({champion.name}) should not go out, because it {self._fault(champion)}."
            return Verdict("none", f"{why} No other candidate passes.", self._basis(champion), None)
        others = [(comparison.row(name), claims) for name, claims in self.decision.failed.items()]
        usable = [(row, claims) for row, claims in others if row and comparison.usable(row) and not _is_it(claims)]
        why, ask, opinion = "no other candidate can be used", "", None
        if usable:
            row, claims = usable[0]
            why, opinion = say_of(comparison, claims[0]), self._opinion(row, champion)
            if self._ratings_would_decide(row, champion):
                ask = f" To decide between them, {ask_for_ratings(comparison, row, champion)}."
        sentence = f"Keep the present model ({champion.name}): {why}.{ask}"
        return Verdict("keep", sentence, self._basis(champion, opinion), champion.name)

    @cached_property
    def _examined(self) -> list[Row]:
        """The tuned rows that may be released, best first."""
        return [row for row in self.comparison.tuned() if row.name in self.decision.failed]

    @property
    def _best_examined(self) -> Row | None:
        """The best sound one of them; the best one if none is sound."""
        rows = self._examined
        return next((row for row in rows if self.comparison.sound(row)), rows[0] if rows else None)

    def _tuned_or_prompt(self) -> Verdict:
        """Return whether the best tuned model, which is not released, or the best prompt is to be used."""
        found = self._of_best()
        return (self._lost_by_merging() or found) if found.kind in ("prompt", "classifier") else found

    def _lost_by_merging(self) -> Verdict | None:
        """Return that nothing is decided about tuning if a merged model is clearly worse than its adapter, which leads
        the best use of its base model; None if there is no such model."""
        comparison = self.comparison
        adapters = [row for row in comparison.tuned() if row.kind == "adapter" and comparison.sound(row)]
        merged_rows = [row for row in self._examined if row.kind == "merged"]
        for merged, adapter in product(merged_rows, adapters):
            bar = comparison.best_bar(merged)
            if bar is None or (adapter.experiment, adapter.variant) != (merged.experiment, merged.variant):
                continue
            if comparison.leads(adapter, bar) and comparison.better(adapter, merged):
                lead, lost = comparison.lead(adapter, bar), comparison.lead(adapter, merged)
                assert lead is not None and lost is not None
                sentence = (
                    f"{merged.name} lost quality when it was merged. On {comparison.metric().label}, {adapter.name} "
                    f"leads it by {describe_lead(lost)}, and {bar.name} by {describe_lead(lead)}. "
                    f"`ft promote {adapter.name}` releases the adapter, if it passes"
                )
                return _open(sentence, self._basis(merged), merged.name)
        return None

    def _of_best(self) -> Verdict:
        """Return whether the best tuned model or the best prompt is to be used."""
        comparison, failed, best = self.comparison, self.decision.failed, self._best_examined
        bar = comparison.best_bar(best)
        if best is None or bar is None:
            return _open("no tuned model was compared. Train one", "", bar.name if bar else None)
        is_sound, leads = comparison.sound(best), comparison.leads(best, bar)
        if bar.rights.without_model:  # of two that are equal, the cheaper one
            leads = comparison.deciding(best, bar).is_ahead
        for row in [best] if is_sound and leads else self._examined:
            own = comparison.best_bar(row)
            if comparison.sound(row) and own and comparison.deciding(row, own).because == "no_evidence":
                return _open(say_of(comparison, failed[row.name][0]), self._basis(row), row.name)
        claim, opinion = comparison.deciding(best, bar), self._opinion(best, bar)
        better_text = without_model.better_text(comparison, best) if is_sound and opinion is None else None
        if better_text is not None:
            cannot_tell = without_model.cannot_tell(comparison, better_text, best)
            return Verdict("undecided", cannot_tell, self._basis(best), best.name)
        if not is_sound:
            if not comparison.usable(bar):
                faults = f"{best.name} {self._fault(best)}, and {bar.name} {self._fault(bar)}"
                return Verdict("none", f"No model can go out: {faults}.", self._basis(best), None)
            return self._prompt(bar, f"{best.name} cannot go out, because it {self._fault(best)}")
        if opinion is not None and opinion.verdict == "refuted" and comparison.usable(bar):
            return self._prompt(bar, f"the answers of {best.name} were preferred in {wins(opinion)}", opinion)
        if opinion is None and claim.verdict == "unknown":
            return _open(f"{best.name} was not compared with {bar.name}", "", best.name)
        if opinion is None and not leads:
            if not comparison.usable(bar):
                return Verdict("none", f"No model can go out: {bar.name} {self._fault(bar)}.", self._basis(bar), None)
            return self._prompt(bar, "no tuned model is better")
        ask = f"{ask_for_ratings(comparison, best, bar)}. " if self._ratings_would_decide(best, bar) else ""
        first = say_of(comparison, failed[best.name][0])
        return _open(f"{ask}{first}{self._more(best, claim)}", self._basis(best, opinion), best.name)

    def _against_incumbent(self, own: Row, incumbent: Row) -> Verdict:
        """Return whether the model that would be used may replace the one that answers today: it is not worse."""
        comparison, price = self.comparison, describe_prices(own, incumbent)
        end = f", which ends on {incumbent.ends}" if incumbent.ends else ""
        today, comma = incumbent.name + end, "," if end else ""
        best, ask = f" Of your own models, {own.name} is the best.", ask_for_ratings(comparison, own, incumbent)
        check = next(iter(comparison.about(own, "replaces", rival=incumbent.name)), None)
        claim = comparison.deciding(own, incumbent)
        if check is None and claim.because == "no_evidence":
            return _open(f"{ask}. {why_no_evidence(own, incumbent)}.{best}{price}", "", own.name, stop="")
        if check is None:
            pair = (own, incumbent) if comparison.leads(own, incumbent, "chrf") else (incumbent, own)
            ahead = comparison.lead(*pair, "chrf")
            seen = f" By chrF, {ahead.row} leads by {describe_lead(ahead)}." if ahead else ""
            silent = f"{today}{comma} gives no likelihoods, and nothing checks its answers.{seen}"
            return _open(f"{ask}. {silent}{best}{price}", "", own.name, stop="")
        by_opinion = check.measure in BY
        label = {"people": "people's preference", "judge": "the judge's preference"}.get(check.measure)
        limit = f"(at least {'unknown' if check.low is None else f'{check.low:.3f}'}; {check.limit:.3g} is the limit)"
        numbers = f"{label or comparison.metric(check.measure).label}: {check.value:+.3f} {limit}.{price}"
        basis = self._basis(own, self._opinion(own, incumbent))
        if check.holds:
            return Verdict(
                "replace", f"Replace {today}{comma} by {own.name}: it is not worse. {numbers}", basis, own.name
            )
        ask = f" To decide between them, {ask}." if self.comparison.ratings_may_decide and not by_opinion else ""
        return _open(
            f"{own.name} is not shown to be as good as {today}. {numbers}{best}{ask}", basis, own.name, stop=""
        )

    # --- parts of sentences

    def _prompt(self, bar: Row, why: str, opinion: Claim | None = None) -> Verdict:
        if bar.rights.without_model:
            kind, sentence = without_model.instead(self.comparison, bar, self._best_examined, why)
            used = self._best_examined if kind == "undecided" else None if kind == "none" else bar
            return Verdict(kind, sentence, self._basis(bar, opinion), used.name if used else None)
        as_it_is, choosing = "use the base model as it is", f"let the base model choose a label, as {bar.name} does"
        how = {"base": as_it_is, "calibrated": choosing}.get(bar.kind, f"prompt it as {bar.name}")
        return Verdict("prompt", f"Do not fine-tune; {how}: {why}.", self._basis(bar, opinion), bar.name)

    def _fault(self, row: Row) -> str:
        faults = self.comparison.about(row, "rail", "general", "probes", "task", verdict="refuted")
        if not faults:
            kept = self.comparison.about(row, "general")
            return say(self.comparison, kept[0]).lower() if kept else "was not checked"
        said = say(self.comparison, faults[0])
        if faults[0].kind == "rail":
            return f"fails: {said}"
        return said.lower() if faults[0].kind == "general" else said.replace("Fails", "fails", 1)

    def _opinion(self, row: Row, rival: Row) -> Claim | None:
        """Return the opinion that decides between two rows."""
        claim = self.comparison.deciding(row, rival)
        return claim if claim.kind == "opinion" else None

    def _win(self, row: Row, rival: Row) -> str:
        """Return by what a row wins: the opinion that decides, or else its lead; empty if it has none."""
        claim = self.comparison.deciding(row, rival)
        if claim.kind == "opinion":
            return f"its answers were preferred in {wins(claim)}"
        return in_words(self.comparison, row, claim) if self.comparison.leads(row, rival) else ""

    def _basis(self, row: Row, opinion: Claim | None = None) -> str:
        recipes = self.comparison.about(row, "recipe")
        trainings = max((len(claim.facts["leads"]) for claim in recipes), default=1)
        trained = "trained once, " if trainings == 1 else f"the same in {trainings} trainings, "
        tested = f"{trained if row.rights.is_tuned else ''}tested on {self.comparison.test_rows:,} conversations. "
        decided = TWO_KEYS if self.comparison.has_two_keys else self.comparison.decided_by
        if opinion is not None:
            decided = f"Decided by {who_of(opinion)}. {agreement(opinion)}"
        off = without_model.SWITCHED_OFF if self.comparison.without_rivals else ""
        return f"{tested[0].upper()}{tested[1:]}{decided} {off}".strip()

    def _more(self, row: Row, claim: Claim) -> str:
        """Return how many more conversations, or ratings, would show the present lead, if these are what is missing."""
        level = next((test.level for test in self.decision.tests if test.name == row.name), None)
        if level is None or claim.value is None or claim.low is None or not claim.is_ahead:
            return ""
        error = (claim.value - claim.low) / HALF_WIDTH
        wanted = ((needed_lead(level) + POWER) * error / (claim.value - claim.limit)) ** 2
        if claim.kind == "opinion":
            more = math.ceil(claim.facts["rated"] * (wanted - 1))
            return f"; about {more:,} more ratings would decide" if 0 < more <= self.comparison.test_items else ""
        more = math.ceil(self.comparison.test_rows * wanted - self.comparison.test_rows)
        return f"; about {more:,} more test conversations would decide" if more > 0 else ""

    def _ratings_would_decide(self, row: Row, rival: Row) -> bool:
        """Return whether people's ratings would decide, since nothing else is missing: it was tested, and it leads."""
        claim = self.comparison.deciding(row, rival)
        leads = self.comparison.leads(row, rival)
        if claim.kind == "opinion":
            leads = claim.measure == "judge" and claim.is_ahead and claim.verdict != "shown"
        asking = ("lead", "no_evidence"), ("opinion", "unheard")
        is_asked = any((failed.kind, failed.because) in asking for failed in self.decision.failed[row.name])
        was_tested = any(test.name == row.name for test in self.decision.tests)
        return was_tested and leads and self.comparison.ratings_may_decide and not is_asked


def _open(why: str, basis: str, row: str | None, stop: str = ".") -> Verdict:
    return Verdict("undecided", f"Not decided yet: {why}{stop}", basis, row)


def _is_it(claims: Sequence[Claim]) -> bool:
    """Return whether all that a row fails is that it is the champion."""
    return [claim.because for claim in claims] == ["already"]


def _range(claim: Claim, scale: float) -> str:
    return "" if claim.low is None or claim.high is None else f" ({claim.low * scale:.0f} to {claim.high * scale:.0f})"


def in_words(comparison: Comparison, row: Row, lead: Claim) -> str:
    """Return the lead of a row in words: percent of the nats that are saved, points of right answers, or a number."""
    metric, rival = comparison.metric(lead.measure), comparison.row(lead.rival)
    value = lead.value or 0.0
    if lead.measure in IN_PERCENT and rival is not None:
        scale = lead_scale(comparison, lead.measure, rival)
        checked = any(check.holds for check in comparison.about(row, "answers"))
        same = ", and its own answers are at least as similar to them" if checked else ""
        saved = f"{value * scale:.0f} %{_range(lead, scale)}"
        return f"it predicts the answers that people wrote {saved} better than {lead.rival}{same}"
    if metric.unit in IN_POINTS and not metric.lower_is_better and rival is not None:
        own, other = (f"{each.scores[lead.measure].value * 100:.0f} %" for each in (row, rival))
        what = f"its {'fields' if metric.unit == SHARE_OF_FIELDS else 'answers'} {RIGHT.get(lead.measure, 'are right')}"
        points = f"a lead of {value * 100:.0f} points{_range(lead, 100)}"
        return f"{own} of {what}, and {other} of those of {lead.rival}: {points}"
    return f"it leads {lead.rival} by {describe_lead(lead)} on {metric.label}"
