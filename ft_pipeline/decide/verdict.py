"""The verdict: what to do, in one sentence for readers without statistics. It follows from the decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from ft_pipeline.decide import without_model
from ft_pipeline.decide.claim import Claim, RecipeFacts
from ft_pipeline.decide.comparison import BY, Comparison, Row
from ft_pipeline.decide.conclusion import OPEN, Open, Verdict, asking, asks_people, kind_of, not_decided, why_open
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.likelihood_evidence import why_no_evidence
from ft_pipeline.decide.outcome import is_worthless, needed_conversations, needed_ratings
from ft_pipeline.decide.promote import Decision
from ft_pipeline.decide.sentences import (
    agreement,
    ask_for_ratings,
    describe_lead,
    describe_prices,
    say,
    say_of,
    who_of,
    wins,
)
from ft_pipeline.decide.units import (
    beside_incumbent,
    describe_calls,
    in_words,
    lead_in_words,
    numbers_beside,
    replaces,
    rounded,
    with_end,
    worth_in_words,
    worth_over,
)

ONE_TEST = Exposure().level(0.05, "", is_tuned=True)
"""The level at which a tuned model is tested that is the first to be looked at, at the default of
`promotion.false_moves`."""
OTHER_PATTERNS = ". Add questions of other patterns to the test rows"
TWO_KEYS = (
    "Decided by two things: how well it predicts people's answers, and how similar its own answers are to them. "
    "Neither says how many answers are right."
)


@dataclass(frozen=True)
class Summary:
    """What the verdict is made from."""

    comparison: Comparison
    decision: Decision
    champion: Row | None
    has_champion: bool
    last_reason: str = ""
    """Of the decision, as `reasons` tells it."""
    changes: Sequence[str] = ()
    """What was otherwise at the first look (Exposure.changes)."""

    @cached_property
    def _moved(self) -> Row | None:
        """What becomes the champion."""
        return self.comparison.row(self.decision.name) if self.decision.move else None

    @property
    def _used(self) -> Row | None:
        """The champion, or what becomes it; None: there is none."""
        return self._moved or self.champion

    def verdict(self) -> Verdict:
        comparison, champion, moved = self.comparison, self.champion, self._moved
        if moved is not None and moved.rights.is_tuned:
            found = self._use(moved)
        elif moved is None and champion is None and self.has_champion:
            sentence = f"Keep the present model: it was not compared. {self.last_reason}."
            return Verdict(kind="keep", sentence=sentence, basis="", row=None)
        elif moved is None and champion is not None and self._stays(champion):
            found = self._keep(champion)
        else:
            found = self._about_tuning()
            if self._used is None:
                return found
        incumbent, own = comparison.incumbent, comparison.row(found.row)
        if incumbent is None or own is None or own.name == incumbent.name:
            return found
        if self._is_open(found):
            return self._besides(found, incumbent)
        return self._against_incumbent(own, incumbent)

    # --- each case

    def _stays(self, champion: Row) -> bool:
        """Return whether only other candidates are asked about: the champion cannot go out, or is a tuned model that
        still leads the best use of its base model. A prompt that came later may be better: then the champion is tried
        again, as if it were new."""
        if not self.comparison.usable(champion):
            return True
        bar = self.comparison.best_bar(champion)
        claim = self.comparison.deciding(champion, bar) if bar else None
        return not champion.rights.is_bar and (claim is None or claim.verdict in ("shown", "unknown"))

    def _is_open(self, found: Verdict) -> bool:
        """Return whether a verdict is about more than what answers today. Without a tuned model, a prompt may replace
        it."""
        return found.kind == "none" or (found.kind in OPEN and self._best_examined is not None)

    def _use(self, row: Row) -> Verdict:
        rival = self.comparison.best_bar(row)
        words, opinion = (self._win(row, rival), self._opinion(row, rival)) if rival else ("", None)
        number, basis = f": {words}" if words else "", self._basis(row, opinion)
        prompted = f" with the prompt variant {row.variant}" if row.variant else ""
        sentence = f"Use the fine-tuned model {row.name}{prompted}{number}."
        return Verdict(kind="use_tuned", sentence=sentence, basis=basis, row=row.name)

    def _keep(self, champion: Row) -> Verdict:
        comparison = self.comparison
        if not comparison.usable(champion):
            why = f"The present model ({champion.name}) should not go out, because it {self._fault(champion)}."
            sentence = f"{why} No other candidate passes."
            return Verdict(kind="none", sentence=sentence, basis=self._basis(champion), row=None)
        others = [(comparison.row(name), claims) for name, claims in self.decision.failed.items()]
        usable = [(row, claims) for row, claims in others if row and comparison.usable(row) and not _is_it(claims)]
        why, ask, opinion = "no other candidate can be used", "", None
        if usable:
            row, claims = usable[0]
            why, opinion = say_of(comparison, claims[0]), self._opinion(row, champion)
            if self._ratings_would_decide(row, champion):
                ask = f" To decide between them, {ask_for_ratings(comparison, row, champion)}."
        sentence = f"Keep the present model ({champion.name}): {why}.{ask}"
        return Verdict(kind="keep", sentence=sentence, basis=self._basis(champion, opinion), row=champion.name)

    @cached_property
    def _examined(self) -> list[Row]:
        """The tuned rows that may be released, best first."""
        return [row for row in self.comparison.tuned() if row.name in self.decision.failed]

    @property
    def _best_examined(self) -> Row | None:
        """The best sound one of them; the best one if none is sound."""
        rows = self._examined
        return next((row for row in rows if self.comparison.sound(row)), rows[0] if rows else None)

    def _lost_by_merging(self) -> Verdict | None:
        """Return that nothing is decided about tuning if a merged model is clearly worse than its adapter, which leads
        the best use of its base model; None if there is no such model."""
        comparison = self.comparison
        tuned = [row for row in comparison.tuned() if not comparison.why_screened_out(row)]
        adapters = [row for row in tuned if row.kind == "adapter" and comparison.sound(row)]
        merged_rows = [row for row in self._examined if row.kind == "merged"]
        for merged, adapter in product(merged_rows, adapters):
            bar = comparison.best_bar(merged)
            if bar is None or (adapter.experiment, adapter.variant) != (merged.experiment, merged.variant):
                continue
            if comparison.leads(adapter, bar) and comparison.better(adapter, merged):
                lead, lost = comparison.lead(adapter, bar), comparison.lead(adapter, merged)
                assert lead is not None and lost is not None
                merging = "" if comparison.why_screened_out(merged) else f"it by {describe_lead(lost)}, and "
                sentence = (
                    f"{merged.name} lost quality when it was merged. On {comparison.metric().label}, {adapter.name} "
                    f"leads {merging}{bar.name} by {describe_lead(lead)}. "
                    f"`ft promote {adapter.name}` releases the adapter, if it passes"
                )
                return self._open(sentence, merged, bar, self._basis(merged))
        return None

    def _about_tuning(self) -> Verdict:
        """Return what is shown about tuning where no tuned model is to be used."""
        comparison, best = self.comparison, self._best_examined
        bar = comparison.best_bar(best)
        if best is None or bar is None:
            return self._open("no tuned model was compared. Train one", self._used or bar, bar)
        if not comparison.usable(bar) and not (comparison.sound(best) and comparison.leads(best, bar)):
            faults = [f"{row.name} {self._fault(row)}" for row in (best, bar) if not comparison.sound(row)]
            sentence = f"No model can go out: {', and '.join(faults)}."
            return Verdict(kind="none", sentence=sentence, basis=self._basis(best), row=None)
        if (lost := self._lost_by_merging()) is not None:
            return lost
        silent = self._without_evidence(best, bar)
        if silent is not None:
            failed = self.decision.failed[silent.name][0]
            why, kind = why_open(comparison, failed), kind_of(failed)
            return self._open(why, silent, bar, self._basis(silent), kind)
        blind = None if self._opinion(best, bar) else without_model.misleads(comparison, best, bar)
        if blind is not None:
            why = without_model.cannot_tell(comparison, blind, best)
            kind = asking(comparison.why_screened_out(best) is None)
            return self._open(why, best, bar, self._basis(best), kind)
        if is_worthless(comparison, bar) and not self.decision.has_few_clusters:
            return self._do_not(best, bar)
        return self._undecided(best, bar)

    def _without_evidence(self, best: Row, bar: Row) -> Row | None:
        """Return the sound tuned row of which nothing that was measured says whether tuning helped, unless another one
        leads."""
        comparison = self.comparison
        for row in [best] if comparison.sound(best) and comparison.leads(best, bar) else self._examined:
            own = comparison.best_bar(row)
            if comparison.sound(row) and own and comparison.deciding(row, own).because == "no_evidence":
                return row
        return None

    def _do_not(self, best: Row, bar: Row) -> Verdict:
        """Return that a training is not worth its work: each tuned model is shown to lead by less than that."""
        comparison, opinion = self.comparison, self._opinion(best, bar)
        screened = comparison.why_screened_out(best)
        if opinion is not None:
            preferred = f"the answers of {best.name} were preferred in {wins(opinion)}"
            why = say_of(comparison, screened) if screened else preferred
        else:
            nearest = max(comparison.tuned(), key=lambda row: comparison.deciding(row, bar).high or 0.0)
            why = f"no tuned model is worth it. {self._bound(nearest, bar)} would be worth a training"
        is_released = self._used is None or self._used.rights.is_bar
        release = "" if is_released else f" `ft promote {bar.name}` releases it."
        basis = self._basis(bar, opinion)
        if bar.rights.without_model:
            kind, said = without_model.instead(bar, why)
            row = None if kind == "none" else bar.name
            return Verdict(kind=kind, sentence=f"{said}{release}", basis=basis, row=row)
        sentence = f"Do not fine-tune; {_how(bar)}: {why}.{release}"
        return Verdict(kind="retrieval" if bar.passages else "prompt", sentence=sentence, basis=basis, row=bar.name)

    def _undecided(self, best: Row, bar: Row) -> Verdict:
        """Return what is missing for a decision about the best tuned model."""
        comparison, claim, opinion = self.comparison, self.comparison.deciding(best, bar), self._opinion(best, bar)
        failed = self.decision.failed[best.name]
        if opinion is None and claim.verdict == "unknown":
            return self._open(f"{best.name} was not compared with {bar.name}", best, bar)
        ask = f"{ask_for_ratings(comparison, best, bar)}. " if self._ratings_would_decide(best, bar) else ""
        first, costs, kind = failed[0], "", asking(bool(ask))
        screened = comparison.why_screened_out(best)
        alike = [say(comparison, claim) + OTHER_PATTERNS for claim in failed if claim.kind == "clusters"]
        if not comparison.sound(best):
            subject = best.name if screened or alike else f"{self._standing(best, bar)}, but it"
            why = ". Besides, ".join([*alike, f"{subject} cannot go out, because it {self._fault(best)}"])
        elif first.kind == "clusters":
            why = alike[0]
        elif screened is not None and (first.kind == "screen" or _is_it(failed)):
            why = say_of(comparison, screened)
        elif opinion is None and (_is_it(failed) or _is_undecided(first)) and (screened is None or not _is_few(first)):
            told = say_of(comparison, first) if first.because == "luck" else self._standing(best, bar)
            few = f"{say_of(comparison, first)}. " if _is_few(first) else ""
            why, costs = few + told + self._needed(best, bar, claim, first), describe_calls(best, bar)
        else:
            more = "" if screened else self._more_ratings(best, claim)
            why, kind = why_open(comparison, first) + more, kind_of(first, asks=bool(ask or more))
        found = self._open(f"{ask}{why}", best, bar, self._basis(best, opinion), kind)
        return found.model_copy(update={"sentence": found.sentence + costs})

    def _standing(self, row: Row, bar: Row) -> str:
        """Return the lead of a tuned model with its interval, whatever it shows."""
        claim = self.comparison.deciding(row, bar)
        if claim.kind == "opinion":
            return f"The answers of {row.name} were preferred in {wins(claim)}"
        lead = lead_in_words(self.comparison, claim, bar)
        return f"The lead of {row.name} over {bar.name} on {self.comparison.metric().label} is {lead}"

    def _bound(self, row: Row, bar: Row) -> str:
        """Return the lead of a tuned model, and the lead of a training that is worth it. Of one that was screened out,
        only that its lead is shown to be smaller."""
        comparison, worth = self.comparison, worth_in_words(self.comparison, bar)
        if comparison.why_screened_out(row) is None:
            return f"{self._standing(row, bar)}, and {worth}"
        on = f"on {comparison.metric().label}"
        return f"The lead of {row.name} over {bar.name} {on} is shown to be below {worth}, which"

    def _needed(self, best: Row, bar: Row, claim: Claim, failed: Claim) -> str:
        """Return what a decision needs: the lead, and the test conversations. failed: the requirement that fails."""
        comparison, worth = self.comparison, worth_over(self.comparison, bar)
        tests = {test.name: test.level for test in self.decision.tests}
        needed = needed_conversations(comparison, claim, tests.get(best.name, ONE_TEST), worth)
        above = f". Above 0 it would be used, below {worth_in_words(comparison, bar)} it is not worth a training"
        if needed is None:
            return above
        fewest = int(failed.limit) if _is_few(failed) else 0
        least, most = (rounded(max(fewest, number)) for number in (needed.least, needed.most))
        number = f"about {least}" if least == most else f"{least} to {most}"
        like = ", if new ones are as much alike" if comparison.units < comparison.test_rows else ""
        return f"{above}; {number} test conversations in all would tell (80 %{like})"

    def _against_incumbent(self, own: Row, incumbent: Row) -> Verdict:
        """Return whether the model that would be used may replace the one that answers today: it is not worse."""
        comparison, price, today = self.comparison, describe_prices(own, incumbent), with_end(incumbent)
        comma = "," if incumbent.ends else ""
        if (screened := comparison.why_screened_out(own)) is not None:
            why = f"{say_of(comparison, screened)}. So it is not compared with {today}."
            return not_decided(why, self._basis(own), own.name, "undecided")
        best, ask = f" Of your own models, {own.name} is the best.", ask_for_ratings(comparison, own, incumbent)
        check = replaces(comparison, own, incumbent)
        claim = comparison.deciding(own, incumbent)
        if check is None and claim.because == "no_evidence":
            return not_decided(f"{ask}. {why_no_evidence(own, incumbent)}.{best}{price}", "", own.name, "rate")
        if check is None:
            ahead = comparison.ahead(own, incumbent, "chrf")
            seen = f" By chrF, {ahead.row} leads by {describe_lead(ahead)}." if ahead else ""
            silent = f"{today}{comma} gives no likelihoods, and nothing checks its answers.{seen}"
            return not_decided(f"{ask}. {silent}{best}{price}", "", own.name, "rate")
        numbers = numbers_beside(comparison, check, own, incumbent)
        basis = self._basis(own, self._opinion(own, incumbent))
        if check.holds:
            sentence = f"Replace {today}{comma} by {own.name}: it is not worse. {numbers}"
            return Verdict(kind="replace", sentence=sentence, basis=basis, row=own.name)
        ask = f" To decide between them, {ask}." if comparison.ratings_may_decide and check.measure not in BY else ""
        why = f"{own.name} is not shown to be as good as {today}. {numbers}{best}{ask}"
        return not_decided(why, basis, own.name, asking(bool(ask)))

    def _besides(self, found: Verdict, incumbent: Row) -> Verdict:
        """Return a verdict that is open, with how what is used until then compares with what answers today."""
        used = self._used
        if used is None or found.kind not in OPEN or self.comparison.why_screened_out(used):
            return found
        told = beside_incumbent(self.comparison, used, incumbent)
        return found.model_copy(update={"sentence": f"{found.sentence} {told}"}) if told else found

    # --- parts of sentences

    def _open(self, why: str, about: Row | None, bar: Row | None, basis: str = "", kind: Open = "undecided") -> Verdict:
        """Return that nothing is decided about a row, with what is used until then: the champion, or else a bar."""
        if self._used is not None:
            until = f" Until then, {self._used.name} is the champion."
        elif bar is not None and self.comparison.usable(bar) and self.comparison.informs(bar):
            until = f" For now, {_how(bar)}."
        else:
            until = ""
        return not_decided(f"{why}.{until}", basis, about.name if about else None, kind)

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
        trainings = max((len(claim.told(RecipeFacts).leads) for claim in recipes), default=1)
        trained = "trained once, " if trainings == 1 else f"the same in {trainings} trainings, "
        tested = f"{trained if row.rights.is_tuned else ''}tested on {self.comparison.conversations}. "
        decided = TWO_KEYS if self.comparison.has_two_keys else self.comparison.decided_by
        if opinion is not None:
            decided = f"Decided by {who_of(opinion)}. {agreement(opinion)}"
        tried = without_model.what_was_tried(self.comparison)
        return " ".join([f"{tested[0].upper()}{tested[1:]}{decided}".strip(), *tried, *self.changes])

    def _more_ratings(self, row: Row, claim: Claim) -> str:
        """Return how many more ratings would show the present preference, if these are what is missing."""
        level = next((test.level for test in self.decision.tests if test.name == row.name), None)
        more = None if level is None else needed_ratings(claim, level)
        return f"; about {more:,} more ratings would decide" if 0 < (more or 0) <= self.comparison.test_items else ""

    def _ratings_would_decide(self, row: Row, rival: Row) -> bool:
        """Return whether people's ratings would decide, since nothing else is missing: it was tested, and it leads."""
        claim = self.comparison.deciding(row, rival)
        leads = self.comparison.leads(row, rival)
        if claim.kind == "opinion":
            leads = claim.measure == "judge" and claim.is_ahead and claim.verdict != "shown"
        is_asked = any(map(asks_people, self.decision.failed[row.name]))
        was_tested = any(test.name == row.name for test in self.decision.tests)
        return was_tested and leads and self.comparison.ratings_may_decide and not is_asked


def _is_undecided(claim: Claim) -> bool:
    """Return whether further test rows would show what a claim is about."""
    return _is_few(claim) or (claim.kind == "lead" and claim.because in ("", "behind", "luck"))


def _is_few(claim: Claim) -> bool:
    """Return whether a claim is that there are too few test conversations."""
    return (claim.kind, claim.because) == ("rows", "few")


def _how(bar: Row) -> str:
    if bar.rights.without_model:
        return without_model.how(bar)
    if bar.passages:
        return f"look facts up, as {bar.name} does"
    if bar.kind == "calibrated":
        return f"let the base model choose a label, as {bar.name} does"
    return "use the base model as it is" if bar.kind == "base" else f"prompt it as {bar.name}"


def _is_it(claims: Sequence[Claim]) -> bool:
    """Return whether all that a row fails is that it is the champion."""
    return [claim.because for claim in claims] == ["already"]
