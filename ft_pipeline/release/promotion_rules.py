"""The rules of a promotion: what a candidate must meet, on the measured comparison. decision.py applies them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ft_pipeline.decide.exposure import Exposure, key_of_test
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.evaluation.comparison.lead_records import PairedDifference, lead_digits
from ft_pipeline.evaluation.comparison.opinion_records import Opinion, ask_for_ratings
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.result_records import ContaminatedModel
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.comparison.score import describe_interval
from ft_pipeline.evaluation.model_kinds import TUNED, ModelKind
from ft_pipeline.release.preferences import (
    decided_by,
    describe_win,
    evidence_between,
    missing_preference,
    unheard_loss,
)
from ft_pipeline.settings.promotion import PromotionSettings

WAITS = "waits for fresh test rows"
"""What a candidate fails while the test rows are used up."""
ALREADY = "is already the champion"
"""What the champion fails as a candidate."""


class PromotionRules:
    """The comparison, with a method for each question of the rules."""

    def __init__(
        self,
        comparison: Comparison,
        candidates: Mapping[str, Candidate],
        settings: PromotionSettings,
        champion: ChampionRecord | None,
        exposure: Exposure,
        extra: ComparisonRow | None = None,
    ) -> None:
        """extra: a row that a person asks for, and that a run would not examine."""
        self.comparison = comparison
        self.candidates = candidates
        self.settings = settings
        self.champion = champion
        self.exposure = exposure
        self.extra = extra
        self.metric = comparison.primary_metric

    def releasable_rows(self, kind: ModelKind) -> list[ComparisonRow]:
        """Return the rows of a kind that can be released and have a score, best first."""
        ranked = self.comparison.ranked(self.metric)
        return [row for row in ranked if row.kind == kind and row.name in self.candidates]

    def tuned_rows(self) -> list[ComparisonRow]:
        """Return the rows of each experiment that a run may release, best first.

        They are the merged model, or the adapter if it cannot be merged (prompt_tuning), under each of its prompts.
        """
        with_merged = {row.experiment for row in self.comparison.rows if row.kind == "merged"}
        adapters = [row for row in self.releasable_rows("adapter") if row.experiment not in with_merged]
        return self.comparison.ranked(self.metric, [*self.releasable_rows("merged"), *adapters])

    def examined_rows(self) -> list[ComparisonRow]:
        """Return the rows that a run may release, best first: each experiment's, each prompt variant, and `extra`."""
        rows = [*self.tuned_rows(), *self.releasable_rows("prompt"), *([self.extra] if self.extra else [])]
        return self.comparison.ranked(self.metric, list({row.name: row for row in rows}.values()))

    @cached_property
    def tested_rows(self) -> list[ComparisonRow]:
        """The rows whose leads are tested on the test rows: those that may be released, passed the screen, and have
        evidence that suits them."""
        return [
            row
            for row in self.examined_rows()
            if not self.is_champion(row)
            and not self._why_not_tested(row)
            and not any(self.comparison.why_undecided(row, rival) for rival in self.rivals(row))
        ]

    @cached_property
    def keys(self) -> dict[str, str]:
        """The key of each test, by row name."""
        return {
            row.name: key_of_test(
                self.candidates[row.name].fingerprint,
                row.scores[self.metric].value,
                {rival.name: rival.scores[self.metric].value for rival in self.rivals(row)},
                self.exposure.rows,
                self.metric,
                (self.comparison.rules, self.comparison.fingerprint, *self._opinions_in_key(row)),
            )
            for row in self.examined_rows()
            if all(self.metric in rival.scores for rival in self.rivals(row))
        }

    @cached_property
    def new_level(self) -> float:
        """The largest p-value that counts in the tests that were not made before."""
        new = [row for row in self.tested_rows if not self._was_tested(row)]
        return self.exposure.level(self.settings.false_moves, len(new))

    def level(self, row: ComparisonRow) -> float:
        """Return the largest p-value that counts in the test of a row."""
        return self.exposure.levels.get(self.keys.get(row.name, ""), self.new_level)

    def _was_tested(self, row: ComparisonRow) -> bool:
        return self.keys.get(row.name) in self.exposure.levels

    def p_value(self, row: ComparisonRow) -> float | None:
        """Return the p-value of a row's test, the larger one of its rivals: it must beat all of them. None: unknown."""
        tests = [
            self.comparison.deciding_opinion(row, rival) or self.comparison.lead_test(row, rival)
            for rival in self.rivals(row)
        ]
        known = [test.p for test in tests if test is not None and test.p is not None]
        return max(known) if known and len(known) == len(tests) else None

    def _opinions_in_key(self, row: ComparisonRow) -> list[str]:
        """Return what identifies the opinions that decide about a row: with more ratings, it is another test."""
        return [
            f"{opinion.rival} {opinion.by} {opinion.rated} {opinion.judged} {opinion.p}"
            for opinion in self._deciding_opinions(row)
        ]

    def surest(self, rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
        """Return the rows whose weakest evidence against a rival is the surest: people before a judge, and a judge
        before a metric."""
        weakest = [
            max((evidence_between(self.comparison, row, rival) for rival in self.rivals(row)), default=0)
            for row in rows
        ]
        return [row for row, evidence in zip(rows, weakest, strict=True) if evidence == min(weakest)]

    def failed_requirements(self, row: ComparisonRow) -> list[str]:
        """Return the requirements that the row does not meet; empty if it can be released."""
        if self.is_champion(row):
            return [ALREADY]
        untested = self._why_not_tested(row)
        if untested == [WAITS]:
            return untested
        missing_leads = [self._missing_lead(row, rival) for rival in self._baseline_rivals(row)]
        return [
            *untested,
            *filter(None, missing_leads),
            *self._missing_lead_over_champion(row),
            *self._missing_lead_of_recipe(row),
            *self._slices_not_held(row),
            *self._behind_on_fresh_rows(row),
        ]

    def _why_not_tested(self, row: ComparisonRow) -> list[str]:
        """Return why the test rows are not used for a row; empty if they are."""
        if faults := self._faults(row):
            return faults
        if not self.rivals(row):
            return ["has no baseline to be compared with"]
        screen = self.comparison.screen(row)
        if screen and not screen.is_passed:
            return [screen.describe()]
        return [WAITS] if self.exposure.is_used_up and not self._was_tested(row) else []

    def rivals(self, row: ComparisonRow) -> list[ComparisonRow]:
        """Return the rows that a row must beat, the champion among them, each once."""
        rivals = [*self._baseline_rivals(row), *self._champion_rows()[:1]]
        return list({rival.name: rival for rival in rivals if rival.name != row.name}.values())

    def is_champion(self, row: ComparisonRow) -> bool:
        return self.champion is not None and self.candidates[row.name].fingerprint == self.champion.fingerprint

    def _faults(self, row: ComparisonRow) -> list[str]:
        """Return why a row cannot be released, whatever it leads."""
        count, least = self.comparison.test_rows, self.settings.min_test_rows
        too_few = [f"{count} test conversations are too few, {least} are needed"] if count < least else []
        gates = self.candidates[row.name].gates
        return [
            *too_few,
            *(f"the check {name} failed" for name, passed in gates.items() if not passed),
            *self._forgetting(row),
            *(check.describe().rstrip(".") for check in row.base_checks if check.prevents_release),
            *(rail.describe() for rail in row.rails if rail.prevents_release),
        ]

    def describe_win(self, row: ComparisonRow) -> str:
        """Return the rivals that the row beats, as a sentence."""
        rivals = self._baseline_rivals(row)
        leads = [(rival.name, self._lead(row, rival)) for rival in rivals]
        names = {rival.name for rival in rivals}
        champions = [champion for champion in self._champion_rows() if champion.name not in names]
        again = self._contaminated_champion() is not None
        leads += [
            (f"{champion.name}, the champion trained again," if again else "the previous champion", lead)
            for champion in champions
            if (lead := self._lead(row, champion))
        ]
        opinions = self._deciding_opinions(row)
        preferred = [describe_win(opinion) for opinion in opinions]
        by_opinion = {opinion.rival for opinion in opinions}
        beaten = [f"{name} by {lead.describe()}" for name, lead in leads if lead and lead.worse not in by_opinion]
        by_metric = [f"beats {', '.join(beaten)} on {self.comparison.metric().label}"] if beaten else []
        win = f"{row.name} {' and '.join([*preferred, *by_metric])}"
        return "; ".join([win, *self._training_notes(row), *self.champion_notes()])

    def _deciding_opinions(self, row: ComparisonRow) -> list[Opinion]:
        """Return the opinions that decide between a row and its rivals."""
        opinions = [self.comparison.deciding_opinion(row, rival) for rival in self.rivals(row)]
        return [opinion for opinion in opinions if opinion is not None]

    def _training_notes(self, row: ComparisonRow) -> list[str]:
        """Return whether the lead is that of a recipe or of the weights of one training; nothing for a prompt."""
        if row.kind not in TUNED:
            return []
        trainings = max((lead.trainings for lead in self.comparison.recipe_leads_of(row)), default=1)
        return [] if trainings > 1 else ["one training: this speaks for these weights, not for the recipe"]

    def champion_notes(self, *, with_fix: bool = False) -> list[str]:
        """Return a sentence if the champion is not compared because it learned from test rows.

        with_fix: it stays, so the sentence says what to do.
        """
        contaminated = self._contaminated_champion()
        if contaminated is None or self.champion is None:
            return []
        champion, fix = ("champion", f". {contaminated.fix}") if with_fix else ("previous champion", "")
        return [f"the {champion} {self.champion.name} is not compared: it {contaminated.because}{fix}"]

    def evidence(self, row: ComparisonRow) -> dict[str, Any]:
        """Return the numbers behind a decision about the row, as plain JSON."""
        leads = [self._lead(row, rival) for rival in [*self._baseline_rivals(row), *self._champion_rows()]]
        score = row.scores.get(self.metric)
        return {
            "metric": self.metric,
            "score": score.to_json() if score else None,
            "pairs": [lead.to_json() for lead in leads if lead],
            "general": row.general,
            "level": self.level(row),
            "p": self.p_value(row),
            "forgetting": row.forgetting.to_json() if row.forgetting else None,
            **({"base_checks": [check.to_json() for check in row.base_checks]} if row.base_checks else {}),
            "champion_compared": self._contaminated_champion() is None,
            "decided_by": {
                rival.name: decided_by(self.comparison, row, rival)
                for rival in self.rivals(row)
                if not self.comparison.why_undecided(row, rival)
            },
            **({"opinions": [opinion.to_json() for opinion in opinions]} if (opinions := self._opinions(row)) else {}),
        }

    def _opinions(self, row: ComparisonRow) -> list[Opinion]:
        """Return all opinions about a row and its rivals."""
        return [opinion for rival in self.rivals(row) for opinion in self.comparison.opinions_on(row, rival)]

    def _baseline_rivals(self, row: ComparisonRow) -> list[ComparisonRow]:
        """Return the baselines that a row must beat: the best use of its base model; for a prompt variant, the base
        model without a prompt."""
        bar = self.comparison.bar_of(row)
        return [bar] if bar else []

    def _missing_lead_over_champion(self, row: ComparisonRow) -> list[str]:
        """Return a reason if the row does not beat the champion, or if that was not measured."""
        if self.champion is None:
            return []
        champions = self._champion_rows()
        if self._contaminated_champion() is not None:
            experiment = self.champion.experiment
            if self._is_left_out(experiment):
                return [f"the champion's experiment {experiment} must be trained and scored again first"]
            if row.experiment == experiment or not champions:
                return []
        if not champions:
            return [f"the champion {self.champion.name} has no score in this comparison: run `ft run`"]
        missing = self._missing_lead(row, champions[0])
        return [f"champion: {missing}"] if missing else []

    def _missing_lead_of_recipe(self, row: ComparisonRow) -> list[str]:
        """Return a reason for each rival that the recipe is not shown to beat over its seeds. Trained once, its weights
        alone decide."""
        return [
            f"its recipe is not shown to beat {lead.rival}: it leads by {lead.describe()}"
            for lead in self.comparison.recipe_leads_of(row)
            if not lead.is_shown
        ]

    def _slices_not_held(self, row: ComparisonRow) -> list[str]:
        """Return a reason for each slice that must hold, and of which it cannot be told against a rival."""
        rivals = {rival.name for rival in self.rivals(row)}
        digits = lead_digits(self.metric)
        failed = [
            check.describe(digits)
            for check in self.comparison.slice_checks
            if check.row == row.name and check.rival in rivals and not check.is_shown
        ]
        return list(dict.fromkeys(failed))

    def _behind_on_fresh_rows(self, row: ComparisonRow) -> list[str]:
        """Return a reason for each rival that clearly leads on the test rows for which the row cannot be designed."""
        return [
            f"trails {rival} on the test conversations that arrived after it was designed: by {-lead.value:.4f} (95 %: "
            f"{describe_interval(-lead.high, -(lead.low or 0.0), 4)})"
            for rival, lead in self.exposure.fresh_leads.get(row.name, {}).items()
            if lead.high is not None and lead.high < 0
        ]

    def _champion_rows(self) -> list[ComparisonRow]:
        """Return the champion's rows: those of kind `champion`, or else those of the same artifact.

        If the champion is contaminated: the row of its experiment, trained again, if possible in the same form.
        """
        if self.champion is None:
            return []
        fingerprint, rows = self.champion.fingerprint, self.comparison.rows
        if self._contaminated_champion() is not None:
            again = [row for row in rows if row.experiment == self.champion.experiment and row.kind in TUNED]
            kind, name = self.champion.kind, self.champion.name
            return sorted(again, key=lambda row: (row.kind != kind, row.name != name))[:1]
        champion_rows = [row for row in rows if row.kind == "champion" and self._compares_champion()]
        names = [name for name, candidate in self.candidates.items() if candidate.fingerprint == fingerprint]
        return champion_rows or [row for row in rows if row.name in names]

    def _compares_champion(self) -> bool:
        """Return whether the comparison was made with this champion. A person may have moved it since."""
        return self.champion is not None and self.comparison.champion_fingerprint in (None, self.champion.fingerprint)

    def _contaminated_champion(self) -> ContaminatedModel | None:
        return self.comparison.contaminated_champion if self._compares_champion() else None

    def _is_left_out(self, experiment: str | None) -> bool:
        """Return whether an experiment of the project has no row in the comparison, because it is contaminated or was
        scored in another evaluation."""
        contaminated = {entry.model for entry in self.comparison.contaminated_experiments}
        return experiment in contaminated | {row.experiment for row in self.comparison.left_out}

    def _missing_lead(self, row: ComparisonRow, rival: ComparisonRow) -> str | None:
        """Return why the row does not beat the rival by more than noise; None if it does."""
        opinion = self.comparison.deciding_opinion(row, rival)
        if opinion is not None:
            return missing_preference(opinion, self.level(row), self._tries)
        if (why := self.comparison.why_undecided(row, rival)) is not None:
            return self._no_evidence(row, rival, why)
        return self._missing_lead_on_metric(row, rival) or unheard_loss(self.comparison, row, rival)

    def _no_evidence(self, row: ComparisonRow, rival: ComparisonRow, why: str) -> str:
        """Return that nothing decides between two rows, and what would. why: see Comparison.why_undecided."""
        ask = ask_for_ratings(row.name, rival.name, self.comparison.opinions_on(row, rival))
        return f"is not decided against {rival.name}: {why}. To decide, {ask}, or set `decides: true` for a check"

    def _missing_lead_on_metric(self, row: ComparisonRow, rival: ComparisonRow) -> str | None:
        """Return why the row does not beat the rival on the primary metric; None if it does."""
        metric, lead = self.comparison.metric().label, self._lead(row, rival)
        if lead is None and self._lead(rival, row) is None:
            return f"was not compared with {rival.name} on {metric}"
        if lead is None or lead.difference <= 0:
            return f"does not beat {rival.name} on {metric}"
        words = f"leads {rival.name} on {metric} by {lead.describe()}"
        if not lead.is_clear:
            return f"{words}, but the interval includes zero"
        test, level = self.comparison.lead_test(row, rival), self.level(row)
        if test is None:
            return f"{words}, but this was compared by older rules: run `ft run`"
        if test.p is None:
            return f"{words}, but by the same in every conversation, which proves nothing"
        if test.p > level:
            return (
                f"{words}, but with {self._tries} that may be luck: its p-value is {test.p:.2g}, and at most "
                f"{level:.2g} is wanted"
            )
        for check in self.comparison.failed_answer_checks(row, rival):
            label = self.comparison.metric(check.metric).label
            return f"{words}, but its answers are not shown to be as good: {label} {check.describe()}"
        return None

    @property
    def _tries(self) -> str:
        """The tests that make a lead less certain."""
        earlier = f"{self.exposure.count:.0f} earlier tests on these rows" if self.exposure.count >= 0.5 else ""
        several = "several candidates" if len(self.tested_rows) > 1 else ""
        return " and ".join(filter(None, [several, earlier])) or "one test"

    def _lead(self, row: ComparisonRow, rival: ComparisonRow) -> PairedDifference | None:
        return self.comparison.difference(row, rival, self.metric)

    def _forgetting(self, row: ComparisonRow) -> list[str]:
        """Return a reason unless it is shown that a tuned row does not forget."""
        if row.kind == "prompt":
            return []
        if row.forgetting is None:
            return ["its general accuracy was not compared with that of its base model"]
        return [] if row.forgetting.verdict == "kept" else [row.forgetting.describe().rstrip(".")]
