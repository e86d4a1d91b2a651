"""Who becomes champion: the rules, in their order. Each yields the claims that a candidate needs.

BEFORE are asked one after the other; the first that fails ends it, and the test rows are not used. TESTS are all asked,
but not of a row that was screened out, of which nobody sees the test scores.
Ties and uncertainty never move the champion: a claim that is not shown fails. A test counts if its p-value is at most a
level that all earlier looks at these rows make smaller (exposure.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Protocol

from pydantic import BaseModel

from ft_pipeline.decide.claim import ChampionFacts, Claim
from ft_pipeline.decide.comparison import BY, MIN_CLUSTERS, Comparison, Row
from ft_pipeline.decide.exposure import Exposure, is_used_up
from ft_pipeline.decide.kinds import KINDS
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.evaluation.comparison.result_records import ContaminatedModel


class Limits(Protocol):
    """The settings of a promotion that the rules ask for (PromotionSettings)."""

    @property
    def min_test_rows(self) -> int: ...
    @property
    def false_moves(self) -> float: ...


class TestedCandidate(BaseModel, frozen=True):
    """A candidate whose lead was tested on the test rows."""

    name: str
    fingerprint: str
    rivals: list[str]
    p: float | None
    level: float
    """The largest p-value that counts."""


@dataclass(frozen=True)
class Court:
    """What the rules see: the comparison, what may be released, and what was tested before."""

    comparison: Comparison
    candidates: Mapping[str, Candidate]
    settings: Limits
    champion: ChampionRecord | None = None
    exposure: Exposure = field(default_factory=Exposure)
    rejected: Mapping[str, int] = field(default_factory=dict)
    """The models that a person rejected, with the number of the record."""
    extra: Row | None = None
    """A row that a person asks for, and that a run would not examine."""

    # --- who is examined, and against whom

    @cached_property
    def examined(self) -> list[Row]:
        """The rows that a run may release, best first; equal ones in the order of KINDS. Of a tuned model, the merged
        form if there is one."""
        merged = {row.experiment for row in self.comparison.rows if row.kind == "merged"}
        rows = [
            row
            for row in sorted(self.comparison.ranked(), key=lambda row: list(KINDS).index(row.kind))
            if row.rights.is_candidate and (row.kind != "adapter" or row.experiment not in merged)
            if row.name in self.candidates
        ]
        if self.extra is not None and self.extra.name not in {row.name for row in rows}:
            rows.append(self.extra)
        return self.comparison.ranked(rows=rows)

    @property
    def has_few_clusters(self) -> bool:
        """Whether the test conversations are so much alike that nothing is decided."""
        return self.comparison.has_few_clusters(self.settings.min_test_rows)

    def is_champion(self, row: Row) -> bool:
        """Return whether a row is the released model."""
        return self.champion is not None and self.candidates[row.name].fingerprint == self.champion.fingerprint

    @cached_property
    def contaminated(self) -> ContaminatedModel | None:
        """The entry of the champion, if it learned from test rows. A person may have moved it since the comparison."""
        return self.comparison.contaminated_champion if self._is_compared else None

    @property
    def _is_compared(self) -> bool:
        compared = (self.comparison.champion or {}).get("fingerprint")
        return self.champion is not None and compared in (None, self.champion.fingerprint)

    @cached_property
    def champion_row(self) -> Row | None:
        """The champion's row. If it is contaminated: that of its experiment, trained again, in the same form."""
        if self.champion is None:
            return None
        rows, champion = self.comparison.rows, self.champion
        if self.contaminated is not None:
            again = [row for row in rows if row.experiment == champion.experiment and row.rights.is_tuned]
            return min(again, key=lambda row: (row.kind != champion.kind, row.name != champion.name), default=None)
        of_it = [row for row in rows if row.kind == "champion" and self._is_compared]
        names = {name for name, entry in self.candidates.items() if entry.fingerprint == champion.fingerprint}
        return next(iter([*of_it, *(row for row in rows if row.name in names)]), None)

    def rivals(self, row: Row) -> list[Row]:
        """Return the rows that a row must beat, each once: its bar, the constant answer, and the champion."""
        champion = [self.champion_row] if self.champion_row is not None else []
        rivals = {rival.name: rival for rival in (*self.comparison.rivals(row), *champion)}
        return [rival for name, rival in rivals.items() if name != row.name]

    # --- how sure a test must be

    @cached_property
    def tested(self) -> list[Row]:
        """The rows whose leads are tested on the test rows."""
        return [row for row in self.examined if self.is_tested(row)]

    def is_tested(self, row: Row) -> bool:
        """Return whether a row's leads are tested on the test rows."""
        silent = (self.comparison.deciding(row, rival).because == "no_evidence" for rival in self.rivals(row))
        return not failing_before(self, row) and not any(silent)

    def level(self, row: Row) -> float:
        """Return the largest p-value that counts in the test of a row. Whatever is compared was looked at, tested or
        not."""
        is_tuned = row.rights.is_tuned
        present = sum(other.rights.is_tuned == is_tuned and not self.is_champion(other) for other in self.examined)
        return self.exposure.level(self.settings.false_moves, row.name, is_tuned=is_tuned, present=present)

    def p(self, row: Row) -> float | None:
        """Return the p-value of a row's test, the larger one of its rivals: it must beat all of them. None: unknown."""
        values = [self.comparison.deciding(row, rival).p for rival in self.rivals(row)]
        known = [p for p in values if p is not None]
        return max(known) if known and len(known) == len(values) else None

    def tests(self) -> list[TestedCandidate]:
        """Return the tests that a decision makes."""
        return [
            TestedCandidate(
                name=row.name,
                fingerprint=self.candidates[row.name].fingerprint,
                rivals=[rival.name for rival in self.rivals(row)],
                p=self.p(row),
                level=self.level(row),
            )
            for row in self.tested
        ]


# --- the rules --------------------------------------------------------------------------------------------------------


def is_new(court: Court, row: Row) -> Iterator[Claim]:
    """The champion is no candidate."""
    if court.is_champion(row):
        yield Claim(kind="champion", row=row.name, verdict="refuted", because="already")


def is_sound(court: Court, row: Row) -> Iterator[Claim]:
    """Enough test rows, which differ, passed checks of its training, nothing lost, no fault too often: whatever it
    leads."""
    count, least = court.comparison.test_rows, court.settings.min_test_rows
    enough = {"verdict": "shown"} if count >= least else {"because": "few"}
    yield Claim(kind="rows", row=row.name, count=count, limit=least, **enough)
    if (units := court.comparison.units) < count:
        different = {"because": "few"} if court.has_few_clusters else {"verdict": "shown"}
        yield Claim(kind="clusters", row=row.name, count=units, limit=min(least, MIN_CLUSTERS), **different)
    for name, passed in court.candidates[row.name].gates.items():
        yield Claim(kind="gate", row=row.name, measure=name, verdict="shown" if passed else "refuted")
    kept = court.comparison.about(row, "general")
    yield from kept if row.rights.has_base else ()
    if row.rights.has_base and not kept:
        yield Claim(kind="general", row=row.name, verdict="unknown", because="unmeasured")
    yield from court.comparison.about(row, "probes", "task")
    yield from court.comparison.about(row, "rail")


def has_rivals(court: Court, row: Row) -> Iterator[Claim]:
    """Without anything to compare it with, nothing is released."""
    if not court.rivals(row):
        yield Claim(kind="rivals", row=row.name, because="none")


def leads_on_validation(court: Court, row: Row) -> Iterator[Claim]:
    """A row that does not lead on the validation rows does not use up the test rows."""
    yield from court.comparison.about(row, "screen")


def has_fresh_rows(court: Court, row: Row) -> Iterator[Claim]:
    """After looks at too many different settings on the same rows, only fresh ones decide."""
    if is_used_up(court.exposure.tries(row.name).designs):
        yield Claim(kind="rows", row=row.name, because="used_up")


def beats_bar(court: Court, row: Row) -> Iterator[Claim]:
    """It beats the best untouched use of its base model."""
    bar = court.comparison.bar(row)
    if bar is not None:
        yield beats(court, row, bar)


def beats_rivals(court: Court, row: Row) -> Iterator[Claim]:
    """It beats the constant answer. Where a likelihood decides, which answers without a language model do not have, no
    such answers may clearly be more like the references."""
    comparison, bar = court.comparison, court.comparison.bar(row)
    yield from (beats(court, row, rival) for rival in comparison.rivals(row) if bar is None or rival.name != bar.name)
    if bar is None or comparison.deciding(row, bar).kind != "opinion":
        yield from (claim.failing("without_model") for claim in comparison.more_similar(row))


def beats_champion(court: Court, row: Row) -> Iterator[Claim]:
    """If the champion learned from test rows, the model of its experiment that was trained again stands for it."""
    if court.champion is None:
        return
    if court.contaminated is not None:
        experiment = court.champion.experiment
        out = [entry.model for entry in court.comparison.contaminated_experiments]
        if experiment is not None and experiment in {*out, *(entry.experiment for entry in court.comparison.left_out)}:
            yield Claim(kind="champion", row=row.name, because="left_out", facts=ChampionFacts(experiment=experiment))
            return
        if row.experiment == experiment or court.champion_row is None:
            return
    if court.champion_row is None:
        yield Claim(kind="champion", row=row.name, because="unscored", facts=ChampionFacts(name=court.champion.name))
        return
    claim = beats(court, row, court.champion_row)
    yield claim if claim.holds else claim.failing(claim.because, is_champion=True)


def beats(court: Court, row: Row, rival: Row) -> Claim:
    """Return the claim that decides between two rows, as far as a promotion accepts it."""
    comparison, claim, level = court.comparison, court.comparison.deciding(row, rival), court.level(row)
    if claim.verdict == "unknown":
        return claim.failing(claim.because or "unmeasured")
    if claim.kind == "lead" and not claim.is_ahead:
        return claim.failing("behind")
    if claim.verdict != "shown":
        return claim.failing("noise" if claim.because == "noise" else "")
    if claim.because == "untested":
        return claim.failing("untested")
    if claim.p is None and claim.kind == "lead":
        return claim.failing("same")
    if claim.p is None or claim.p > level:
        return claim.failing("luck", tries=_tries(court, row), level=level)
    if claim.kind == "opinion":
        return claim
    for check in comparison.about(row, "answers", rival=rival.name):
        if not check.holds:
            return check.failing("behind")
    for opinion in comparison.about(row, "opinion", rival=rival.name):
        if comparison.is_unheard(opinion):
            return opinion.failing("unheard")
    return claim


def recipe_leads(court: Court, row: Row) -> Iterator[Claim]:
    """Over its seeds, too. Trained once, its weights alone decide."""
    yield from sorted(court.comparison.about(row, "recipe"), key=lambda claim: claim.rival)


def slices_hold(court: Court, row: Row) -> Iterator[Claim]:
    """It is shown not to be worse in each slice that must hold."""
    rivals = {rival.name for rival in court.rivals(row)}
    yield from (claim for claim in court.comparison.about(row, "slice") if claim.rival in rivals)


def is_not_designed_for_these_rows(court: Court, row: Row) -> Iterator[Claim]:
    """On the test conversations that arrived after it was designed, no rival may clearly lead."""
    for rival, lead in court.exposure.fresh_leads.get(row.name, {}).items():
        verdict = "refuted" if lead.high is not None and lead.high < 0 else "shown"
        ends = {"value": lead.value, "low": lead.low, "high": lead.high}
        yield Claim(kind="fresh", row=row.name, rival=rival, scope="fresh", **ends, verdict=verdict)


BEFORE = (is_new, is_sound, has_rivals, leads_on_validation, has_fresh_rows)
TESTS = (beats_bar, beats_rivals, beats_champion, recipe_leads, slices_hold, is_not_designed_for_these_rows)
ALONE = (("champion", "already"), ("rows", "used_up"))
"""Claims after which nothing else is asked."""


def tests_of(court: Court, row: Row) -> Sequence[Callable[[Court, Row], Iterator[Claim]]]:
    """Return those of TESTS that are asked of a row."""
    return () if court.comparison.why_screened_out(row) else TESTS


def failing_before(court: Court, row: Row) -> list[Claim]:
    """Return why the test rows are not used for a row: the claims that fail of the first rule that does."""
    found = ([claim for claim in rule(court, row) if not claim.holds] for rule in BEFORE)
    return next(filter(None, found), [])


def failing(court: Court, row: Row) -> list[Claim]:
    """Return the claims because of which a row is not released; empty if it may be."""
    before = failing_before(court, row)
    if before and (before[0].kind, before[0].because) in ALONE:
        return before
    tests = [claim for rule in tests_of(court, row) for claim in rule(court, row) if not claim.holds]
    number = court.rejected.get(court.candidates[row.name].fingerprint)
    if not before and not tests and number is not None:
        return [Claim(kind="champion", row=row.name, because="rejected", facts=ChampionFacts(number=number))]
    return [*before, *tests]


# --- the decision -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """Whether the champion moves, and the claims for and against every examined row."""

    move: bool
    name: str | None
    failed: Mapping[str, Sequence[Claim]]
    """By examined row, best first."""
    passed_over: Sequence[str] = ()
    """The rows before the best one that passes."""
    keeps_lead_of: str | None = None
    """The better row, of which the chosen simpler one keeps most of the lead."""
    tests: Sequence[TestedCandidate] = ()
    has_few_clusters: bool = False
    """Whether the test conversations are so much alike that nothing is decided."""


def decide(court: Court) -> Decision:
    """Examine the rows that may be released, best first, and choose the best one that fails nothing, or a simpler one
    that is shown to keep most of its lead."""
    failed = {row.name: failing(court, row) for row in court.examined}
    tests = court.tests()
    passing = _surest(court, [row for row in court.examined if not failed[row.name]])
    if not passing:
        return Decision(False, None, failed, tests=tests, has_few_clusters=court.has_few_clusters)
    best = passing[0]
    keep = {
        claim.row for row in passing for claim in court.comparison.about(row, "share", rival=best.name) if claim.holds
    }
    as_good = [row for row in passing if row is best or row.name in keep]
    chosen = min(as_good, key=lambda row: (*row.complexity, passing.index(row)))
    before = [name for name, _ in takewhile(lambda entry: entry[1], failed.items())]
    return Decision(True, chosen.name, failed, before, best.name if chosen is not best else None, tests)


def _surest(court: Court, rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose weakest evidence against a rival is the surest: people, then a judge, then a metric."""
    weakest = [max((_evidence(court, row, rival) for rival in court.rivals(row)), default=0) for row in rows]
    return [row for row, evidence in zip(rows, weakest, strict=True) if evidence == min(weakest)]


def _evidence(court: Court, row: Row, rival: Row) -> int:
    claim = court.comparison.deciding(row, rival)
    return BY.index(claim.measure) if claim.kind == "opinion" else len(BY)


def _tries(court: Court, row: Row) -> str:
    """Return the looks that make a lead less certain."""
    looks = court.exposure.tries(row.name).earlier
    earlier = f"{looks:.0f} earlier looks at these rows" if looks >= 0.5 else ""
    several = "several candidates" if len(court.tested) > 1 else ""
    return " and ".join(filter(None, [several, earlier])) or "one test"
