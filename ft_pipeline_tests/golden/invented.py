"""Invented worlds: golden worlds whose comparisons are changed at random, as documents of version 1.

The changes need not fit together as measured numbers would. Each world is the same for the same seed.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.likelihood_evidence import LIKELIHOODS, why_no_evidence
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.evaluation.comparison.result_records import METRIC_IS_NAMED, CurveStep, LearningCurve
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.claims import kept
from ft_pipeline_tests.decide.rules import champion_record
from ft_pipeline_tests.golden import worlds
from ft_pipeline_tests.golden.shop import PASSED, SINCE, World
from ft_pipeline_tests.version1.base_check_records import BaseCheck
from ft_pipeline_tests.version1.convert import as_claims, as_version_1, forgetting_of
from ft_pipeline_tests.version1.lead_records import (
    AnswerCheck,
    KeptLead,
    LeadTest,
    PairedDifference,
    RecipeLead,
    Screen,
)
from ft_pipeline_tests.version1.opinion_records import By, Opinion
from ft_pipeline_tests.version1.records import Comparison
from ft_pipeline_tests.version1.row_records import ComparisonRow, Rail
from ft_pipeline_tests.version1.slice_records import SliceCheck

MOST_ROWS = 9
OWN = (*TUNED, "prompt")


def invent(seed: int, count: int, bases: Sequence[World] | None = None) -> Iterator[World]:
    """Yield invented worlds. bases: those that are changed; None: every golden world."""
    dice = random.Random(seed)
    known = [world for world in bases or list(worlds.every()) if 2 <= len(world.comparison.rows) <= MOST_ROWS]
    for number in range(count):
        yield _world(dice, dice.choice(known), f"{seed}.{number}")


def _world(dice: random.Random, base: World, name: str) -> World:
    changed = _Change(dice, as_version_1(base.comparison), dice.choice([1.0, 0.3, 0.1]))
    comparison = changed.comparison()
    candidates = _candidates(dice, comparison)
    champion, champion_row = _champion(dice, comparison, candidates)
    fresh = [Score(value, value - 0.1, value + 0.1) for value in (-0.3, 0.3)]
    rivals = [row.name for row in comparison.rows if row.kind == "base"]
    return replace(
        base,
        name=name,
        about=f"{base.name}, changed",
        comparison=as_claims(comparison),
        candidates=candidates,
        settings=PromotionSettings(min_test_rows=50, false_moves=dice.choice([0.05, 0.2])),
        champion=champion,
        champion_row=champion_row,
        rejected={f"{own}!": 4 for own in candidates if dice.random() < 0.05},
        exposure=Exposure(
            count=dice.choice([0.0, 0.0, 3.0, 25.0]),
            designs=dice.choice([0.0, 3.0, 45.0]),
            fresh_leads={
                own: {rival: dice.choice(fresh) for rival in rivals} for own in candidates if dice.random() < 0.1
            },
        ),
        experiments={
            row.experiment: _without_none({"train_rows": dice.choice([None, 50, 300, 900])})
            for row in comparison.rows
            if row.experiment
        },
        samples={},
        shows_answers=False,
    )


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _candidates(dice: random.Random, comparison: Comparison) -> dict[str, Candidate]:
    found = {}
    for row in comparison.rows:
        if row.kind in OWN and dice.random() < 0.95:
            gates = {} if row.kind == "prompt" else {**PASSED, "merge": dice.random() > 0.05}
            kind: Any = row.kind
            found[row.name] = Candidate(
                name=row.name, kind=kind, experiment=row.experiment, fingerprint=f"{row.name}!", gates=gates
            )
    return found


def _champion(
    dice: random.Random, comparison: Comparison, candidates: Mapping[str, Candidate]
) -> tuple[ChampionRecord | None, str | None]:
    """Return a champion: none, a candidate, the one that is scored as such, or one without a score."""
    scored = next((row for row in comparison.rows if row.kind == "champion"), None)
    name = dice.choice([*candidates, "gone", *(["champion"] * 3 if scored else [])])
    if dice.random() < 0.5:
        return None, None
    own = candidates.get(name)
    fingerprint = ((comparison.champion or {}).get("fingerprint") or "old") if name == "champion" else f"{name}!"
    experiment = own.experiment if own else (comparison.champion or {}).get("experiment", "old")
    kind = own.kind if own else "merged"
    record = champion_record(name, experiment, fingerprint, kind=kind, since=SINCE, reason="best")
    return record, None if name == "gone" else name


@dataclass
class _Change:
    """A comparison that is changed at random."""

    dice: random.Random
    before: Comparison
    kind: float
    """How much is changed: 1 for a lot."""

    def maybe(self, chance: float) -> bool:
        return self.dice.random() < chance * self.kind

    def comparison(self) -> Comparison:
        changed = replace(self.before, rows=[self._row(row) for row in self.before.rows])
        own = [row for row in changed.rows if row.kind in OWN]
        pairs, tests = self._leads(changed)
        changed = replace(changed, pairs=pairs, lead_tests=tests, test_rows=self.dice.choice([30, 60, 60, 200]))
        return replace(changed, **self._claims(changed, own))

    def _row(self, row: ComparisonRow) -> ComparisonRow:
        values: dict[str, Any] = {"general": {"accuracy": 0.5}}
        if row.kind in (*TUNED, "champion"):
            values["forgetting"] = self._forgetting(row)
            if self.maybe(0.2):
                values["base_checks"] = [self._base_check()]
            if self.maybe(0.1):
                values["learned_from"] = self.dice.choice(["preferences", "rewards"])
            if self.maybe(0.4):
                values["technique"] = self.dice.choice(["lora", "qlora", "full", "prompt_tuning"])
        if self.maybe(0.15):
            values["rails"] = [self._rail()]
        if row.kind == "prompt" and self.maybe(0.2):
            values["passages"] = 2
        if row.kind in TUNED and self.maybe(0.05):
            values["base_model"] = self.dice.choice(["small", "other"])
        return replace(row, **values)

    def _forgetting(self, row: ComparisonRow) -> Any:
        base = row.forgetting.base if row.forgetting else "base"
        if self.maybe(0.4):
            return forgetting_of(kept(row.name, self.dice.choice([0, 5, 20, 60]), self.dice.choice([0, 3, 12]), base))
        return None if self.maybe(0.05) else forgetting_of(kept(row.name, 0, base=base))

    def _base_check(self) -> BaseCheck:
        verdict: Any = self.dice.choice(["kept", "lost", "cannot be told", "not in base", "unknown"])
        low = 0.06 if verdict == "lost" else -0.02
        high = 0.04 if verdict == "kept" else 0.2
        numbers: dict[str, Any] = {"before": 0.5, "after": self.dice.random(), "drop": 0.1, "low": low, "high": high}
        kind: Any = self.dice.choice(["probes", "task"])
        about: dict[str, Any] = {
            "wanted": "declined",
            "base": "base",
            "because": "it was not asked",
            "count": 60,
            "lost": 3,
            "won": 1,
        }
        needed = self.dice.choice([None, 30, 90])
        return BaseCheck(kind=kind, name="refuse", verdict=verdict, margin=0.05, needed=needed, **about, **numbers)

    def _rail(self) -> Rail:
        verdict: Any = self.dice.choice(["pass", "breach", "cannot be told", "off"])
        faults, high = self.dice.choice([0, 3, 9]), self.dice.choice([0.04, 0.2])
        return Rail("repetition", "repeat themselves", faults, 40, 0.02, high, 0.05, verdict)

    def _leads(self, changed: Comparison) -> tuple[list[PairedDifference], list[LeadTest]]:
        """Return the leads, some with another interval, and a test for each of a row that may be released."""
        rows = {row.name: row for row in changed.rows}
        pairs, tests = [], []
        for pair in changed.pairs:
            better, worse = rows[pair.better], rows[pair.worse]
            if pair.metric != changed.primary_metric:
                pairs.append(pair)
            elif not _is_silent(changed, better, worse):
                pairs.append(self._lead(pair))
                if better.kind in OWN and not self.maybe(0.02):
                    p = self.dice.choice([None, 1e-9, 1e-9, 1e-9, 0.001, 0.01, 0.02, 0.03, 0.04])
                    tests.append(LeadTest(pair.better, pair.worse, p))
        return pairs, tests

    def _lead(self, pair: PairedDifference) -> PairedDifference:
        if not self.maybe(0.5):
            return pair
        width = pair.difference * self.dice.choice([0.5, 0.9, 1.1, 2])
        return replace(pair, low=pair.difference - width, high=pair.difference + width)

    def _claims(self, changed: Comparison, own: Sequence[ComparisonRow]) -> dict[str, Any]:
        """Return further claims about the rows that may be released, a part of them each time."""
        claims: dict[str, Any] = {}
        choice, rivals = self.dice.choice, [(row, rival) for row in own for rival in changed.rows if row is not rival]
        tuned = [row for row in changed.ranked() if row.kind in TUNED]
        if tuned and self.maybe(0.5):
            best = tuned[0].name
            claims["kept_leads"] = [
                KeptLead(row.name, best, "base", 0.9, 0.8, choice([-0.1, 0.1])) for row in tuned[1:]
            ]
        if self.maybe(0.3):
            claims["screens"] = [
                Screen(row.name, "base", choice([20, 40]), choice([-0.1, 0.05, 0.3]), 0.1)
                for row in own
                if self.maybe(0.5)
            ]
        if self.maybe(0.3):
            claims["recipe_leads"] = [
                RecipeLead(row.name, "base", 3, [0.1, 0.2, 0.3], 0.2, 0.1, 0.3, choice([-0.1, 0.1]))
                for row in tuned
                if self.maybe(0.5)
            ]
        if self.maybe(0.3):
            claims["slice_checks"] = [self._slice(row, rival) for row, rival in rivals if self.maybe(0.5)]
        if self.maybe(0.4) and changed.primary_metric in ("loss", "nats_per_byte"):
            claims["answer_checks"] = [
                AnswerCheck(row.name, rival.name, "chrf", choice([-1.0, 1.0]), choice([-3.0, -1.5, None]), 2.0)
                for row, rival in rivals
                if changed.difference(row, rival) is not None
            ]
        if self.maybe(0.35):
            claims["opinions"] = [
                opinion for row, rival in rivals if self.maybe(0.4) for opinion in self._opinions(changed, row, rival)
            ]
        if changed.incumbent is not None:
            today = changed.incumbent.name
            claims["incumbent_checks"] = [
                AnswerCheck(row.name, today, "chrf", choice([-1.0, 1.0]), choice([-9.0, -1.5, None]), 5.0)
                for row in own
            ]
        if self.maybe(0.2):
            steps = [
                CurveStep(metric=changed.primary_metric, difference=step, low=step - 0.1, high=step + 0.1)
                for step in (-0.1, 0.05, 0.5)
            ]
            claims["learning_curves"] = [
                LearningCurve(row=row.name, experiment=row.experiment or "", points=[], last_step=choice(steps))
                for row in tuned
            ]
        return claims

    def _slice(self, row: ComparisonRow, rival: ComparisonRow) -> SliceCheck:
        count, lead = self.dice.choice([(40, 0.1), (40, 0.1), (5, None), (0, None)])
        low = None if lead is None else self.dice.choice([-0.2, 0.01])
        return SliceCheck(row.name, rival.name, "refund", count, lead, low, 0.1, self.dice.choice([None, 12]))

    def _opinions(self, changed: Comparison, row: ComparisonRow, rival: ComparisonRow) -> Iterator[Opinion]:
        """Yield the opinion of people, of a judge, or of both: the first that may decides."""
        by: list[By] = [who for who in ("people", "judge") if self.dice.random() < 0.6]
        is_named, is_decided = METRIC_IS_NAMED in changed.decided_by, False
        for who in by:
            win_rate, width = self.dice.choice([(0.7, 0.1), (0.55, 0.1), (0.3, 0.1)])
            decides = not is_named and not is_decided and self.dice.random() < 0.5
            is_decided = is_decided or decides
            yield Opinion(
                row=row.name,
                rival=rival.name,
                by=who,
                rated=self.dice.choice([20, 60]) if who == "people" else 0,
                judged=30,
                win_rate=win_rate,
                low=win_rate - width,
                high=win_rate + width,
                p=self.dice.choice([None, 0.001, 0.04]),
                alpha=None,
                may_decide=decides,
                because="enough pairs" if decides else "20 pairs are rated, and 50 are wanted",
            )


def _is_silent(changed: Comparison, row: ComparisonRow, rival: ComparisonRow) -> bool:
    """Return whether the metric that decides says nothing about two rows."""
    is_named = METRIC_IS_NAMED in changed.decided_by or changed.primary_metric not in LIKELIHOODS
    return not is_named and why_no_evidence(row, rival) is not None
