"""The facts of a comparison that the rules in rules.py and observations.py ask for, and the recorded evidence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ft_pipeline.evaluation.comparison.json_record import JsonRecord
from ft_pipeline.evaluation.comparison.lead_records import KeptLead, PairedDifference
from ft_pipeline.evaluation.comparison.opinion_records import Opinion
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.result_records import LearningCurve, SeedSpread
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED
from ft_pipeline.evaluation.recommendation.fitting import DataAtHand

ANSWER_METRIC = "chrf"
"""The metric that compares a teacher with other rows: it needs only answers, and a teacher may have no loss."""
SECOND_ANSWER_METRIC = "rouge_l"
"""A second metric of answers, by which a teacher must not be clearly worse."""
SERIES = 3
"""Trainings of a series from which its spread is quoted for others."""
VERBS = {"leads", "trails", "has", "does", "was", "is", "waits", "cannot"}
"""First words of failed requirements that go on with a row's name."""
ENOUGH_ROWS = 500
"""Training rows that LoRA usually needs. With fewer rows, a tie says little about tuning."""


@dataclass(frozen=True)
class Recommendation:
    """The result of the rule that decides."""

    decision: str
    """A key of report.DECISION_TEXTS. Once there is a verdict, it only says what the reason is about."""
    reason: str
    """What the scores show. Empty if the verdict says all."""
    row: ComparisonRow | None = None
    """The tuned row that the decision is based on."""


@dataclass(frozen=True)
class Decided:
    """What was decided. The recommendation follows it."""

    row: str | None
    """The row to use now: that of the verdict; while it is open, the champion. None if there is none."""
    moves: bool
    failed: Mapping[str, Sequence[str]]
    """By row that may be released, the requirements that it fails."""
    kind: str
    """Of the verdict (verdict.Kind), whose sentence is the only one that concludes."""
    asks_for_ratings: bool
    """Whether the sentence asks people to rate."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Decided":
        """Return what a decision.json says."""
        decision, said = document["decision"], document["verdict"]
        champion = decision["name"] if decision["move"] else document["champion_row"]
        row = champion if said["kind"] == "undecided" else said["row"]
        return cls(row, decision["move"], decision["failed"], said["kind"], "`ft rate " in said["sentence"])


@dataclass(frozen=True)
class ComparisonFacts:
    """A comparison, with a method or property for each question of the rules."""

    comparison: Comparison
    experiments: Mapping[str, Mapping[str, Any]]
    """By experiment, facts about its training: `train_rows`."""
    min_test_rows: int
    """Smallest number of test conversations for a decision (PromotionSettings)."""
    decided: Decided | None = None
    """None: the comparison alone is looked at."""
    at_hand: DataAtHand | None = None
    """None: not known."""

    @cached_property
    def decided_row(self) -> ComparisonRow | None:
        """The row to use now, by the verdict; None if no model can go out."""
        if self.decided is None or self.decided.kind == "none":
            return None
        return self.comparison.row(self.decided.row)

    @property
    def is_open(self) -> bool:
        """Whether the verdict is that nothing is decided yet."""
        return self.decided is not None and self.decided.kind == "undecided"

    @cached_property
    def scored_rows(self) -> list[ComparisonRow]:
        """Rows with the primary metric, best first."""
        return self.comparison.ranked()

    @cached_property
    def plain_base(self) -> ComparisonRow | None:
        """The base model without a prompt."""
        return self.plain_of(None)

    def plain_of(self, row: ComparisonRow | None) -> ComparisonRow | None:
        """Return the base model of a row without a prompt; the best one for None."""
        return self.comparison.plain_of(row)

    @cached_property
    def best_baseline(self) -> ComparisonRow | None:
        """The best baseline: the base model without a prompt, or under a prompt variant."""
        return self.comparison.best_baseline()

    @cached_property
    def with_passages(self) -> ComparisonRow | None:
        """The best baseline that retrieves passages."""
        return self.comparison.best_baseline(passages=True)

    @cached_property
    def without_passages(self) -> ComparisonRow | None:
        """The best baseline that retrieves no passages."""
        return self.comparison.best_baseline(passages=False)

    def passages_help(self) -> bool:
        """Return whether passages clearly improve prompting."""
        with_passages, without_passages = self.with_passages, self.without_passages
        return (
            with_passages is not None
            and without_passages is not None
            and self.clearly_better(with_passages, without_passages)
        )

    @cached_property
    def teacher(self) -> ComparisonRow | None:
        """The best teacher that was scored. Teachers are ranked by their answers, because they have no loss."""
        return next((row for row in self.comparison.ranked(ANSWER_METRIC) if row.kind == "teacher"), None)

    @cached_property
    def students(self) -> list[ComparisonRow]:
        """Every usable baseline and tuned row, ranked by its answers, best first."""
        ranked = self.comparison.ranked(ANSWER_METRIC)
        return [row for row in ranked if row.kind in (*BASELINES, *TUNED) and row.is_usable]

    def answer_difference(self, student: ComparisonRow) -> PairedDifference | None:
        """Return the paired difference between the answers of the teacher and of a student."""
        assert self.teacher is not None
        return self.comparison.difference_between(self.teacher, student, ANSWER_METRIC)

    def teacher_leads(self) -> bool:
        """Return whether the teacher's answers are clearly better than those of every student.

        By SECOND_ANSWER_METRIC they must not be clearly worse.
        """
        if self.teacher is None or not self.students:
            return False
        return all(
            self.clearly_better(self.teacher, row, ANSWER_METRIC)
            and not self.clearly_better(row, self.teacher, SECOND_ANSWER_METRIC)
            for row in self.students
        )

    @cached_property
    def tuned_rows(self) -> list[ComparisonRow]:
        """The tuned rows with the primary metric, best first. Once it is decided: those that may be released, which an
        adapter may not that has a merged model."""
        rows = [row for row in self.scored_rows if row.kind in TUNED]
        return [row for row in rows if self.decided and row.name in self.decided.failed] or rows

    @cached_property
    def sound_rows(self) -> list[ComparisonRow]:
        """The tuned rows that are usable and are not shown to forget, best first."""
        return [row for row in self.tuned_rows if row.is_sound]

    @cached_property
    def best_tuned(self) -> ComparisonRow:
        """The best sound row that beats the best use of its base model; the best sound row if none does."""
        return next((row for row in self.sound_rows if self.beats_baselines(row)), self.sound_rows[0])

    def kept_lead(self, row: ComparisonRow) -> KeptLead | None:
        """Return how much of the best row's lead a row keeps; None for the best row itself."""
        return next((entry for entry in self.comparison.kept_leads if entry.row == row.name), None)

    def lead(self, better: ComparisonRow, worse: ComparisonRow) -> PairedDifference | None:
        """Return the paired difference in which `better` leads `worse`; None if it does not."""
        return self.comparison.difference(better, worse)

    def clearly_better(self, better: ComparisonRow, worse: ComparisonRow, metric: str | None = None) -> bool:
        """Return whether `better` leads `worse` with an interval that excludes zero."""
        return self.comparison.clearly_better(better, worse, metric)

    def describe(self, pair: PairedDifference | None) -> str:
        """Return a paired difference as a sentence; an empty string for None."""
        if pair is None:
            return ""
        return f"{self.comparison.metric(pair.metric).label}: {pair.better} leads {pair.worse} by {pair.describe()}."

    def bar_of(self, row: ComparisonRow | None) -> ComparisonRow | None:
        """Return what a tuned row must beat: the best untouched use of its base model; of any for None."""
        return self.comparison.best_baseline(of=row)

    def beats_baselines(self, row: ComparisonRow) -> bool:
        """Return whether the row is clearly better than the best use of its base model, and its answers are as good.

        True if there is no baseline. Where an opinion decides, its answers must be clearly preferred.
        """
        bar = self.bar_of(row)
        if bar is not None and (opinion := self.deciding_opinion(row, bar)) is not None:
            return opinion.is_clear_win
        return bar is None or (self.clearly_better(row, bar) and not self.comparison.failed_answer_checks(row, bar))

    def why_undecided(self, row: ComparisonRow) -> str | None:
        """Return why nothing that was measured decides between a row and the best use of its base model; None if
        something does, or if there is no such use."""
        bar = self.bar_of(row)
        if bar is None or self.deciding_opinion(row, bar) is not None:
            return None
        return self.comparison.why_no_metric(row, bar)

    @cached_property
    def undecided_rows(self) -> list[ComparisonRow]:
        """The sound rows of which nothing that was measured says whether tuning helped: of each training one, the
        merged model if there is one."""
        rows = [row for row in self.sound_rows if row.variant is None and self.why_undecided(row) is not None]
        merged = {row.experiment for row in rows if row.kind == "merged"}
        return [row for row in rows if row.kind == "merged" or row.experiment not in merged]

    def deciding_opinion(self, row: ComparisonRow, rival: ComparisonRow) -> Opinion | None:
        """Return the opinion that decides between two rows: for an adapter, that on its merged model, if it has one,
        which is what would be released."""
        released = [other for other in self.comparison.rows if other.kind == "merged" and row.kind == "adapter"]
        forms = [row, *(other for other in released if other.experiment == row.experiment)]
        return next(filter(None, (self.comparison.deciding_opinion(form, rival) for form in forms)), None)

    def describe_lead(self, row: ComparisonRow, rival: ComparisonRow) -> str:
        """Return how a row stands against a rival, as a sentence: by the opinion that decides, or else its lead on the
        primary metric; an empty string if it does not lead."""
        opinion = self.deciding_opinion(row, rival)
        return opinion.describe_fully() if opinion else self.describe(self.lead(row, rival))

    def base_of(self, row: ComparisonRow | None) -> ComparisonRow | None:
        """Return the base model that the row's general accuracy is compared with; `plain_base` if none was measured."""
        own = self.comparison.row(row.forgetting.base) if row and row.forgetting else None
        return own or self.plain_base

    def seed_spread(self, row: ComparisonRow) -> SeedSpread | None:
        """Return the spread between the row's training seeds; None if it was trained once."""
        spread = next((entry for entry in self.comparison.seeds if entry.row == row.name), None)
        return spread if spread and self.comparison.primary_metric in spread.scores else None

    def pooled_spread(self, row: ComparisonRow) -> float | None:
        """Return the standard deviation between trainings of the row's technique on its base model, over the series
        with three or more of them; None if there is none."""
        name, squares, freedom = self.comparison.primary_metric, 0.0, 0
        for series in self.comparison.seeds:
            other = self.comparison.row(series.row)
            scores = series.scores.get(name)
            same = other is not None and (other.technique, other.base_model) == (row.technique, row.base_model)
            if same and scores is not None and len(scores.values) >= SERIES:
                squares += sum((value - scores.mean) ** 2 for value in scores.values)
                freedom += len(scores.values) - 1
        return math.sqrt(squares / freedom) if freedom else None

    def learning_curve(self, row: ComparisonRow) -> LearningCurve | None:
        """Return the row's learning curve; None if there is none."""
        return next((curve for curve in self.comparison.learning_curves if curve.row == row.name), None)

    def one_step_closes_gap(self, row: ComparisonRow) -> bool:
        """Return whether the learning curve still rises, and a further step like the last would reach the baseline."""
        curve = self.learning_curve(row)
        bar = self.bar_of(row)
        if curve is None or bar is None or not curve.rises:
            return False
        gap = self.lead(bar, row)
        return gap is None or gap.difference <= curve.last_step.difference

    def train_rows(self, row: ComparisonRow) -> int | None:
        """Return the row's number of training rows written by people; None if unknown."""
        return self.experiments.get(row.experiment or "", {}).get("train_rows")


def said_of(name: str, requirement: str) -> str:
    """Return a failed requirement as a sentence about a row."""
    requirement = requirement.removeprefix("champion: ")
    return f"{name} {requirement}" if requirement.split()[0] in VERBS else f"{name}: {requirement}"


def faults_of(row: ComparisonRow) -> list[str]:
    """Return why a row is not recommended, whatever its scores. Empty for a sound row."""
    if row.is_sound:
        return []
    forgets = row.is_usable and row.forgetting is not None and row.forgetting.verdict == "forgets"
    forgetting = [row.forgetting.describe()] if row.forgetting and forgets else []
    losses = [*forgetting, *(check.describe() for check in row.lost_checks)]
    return [*(rail.describe() for rail in row.breaches), *(sentence.rstrip(".") for sentence in losses)]


def baseline_phrase(row: ComparisonRow | None) -> str:
    """Return the phrase for a baseline in a sentence."""
    return "the base model" if row is None or row.kind == "base" else f"the prompt variant {row.name}"


def evidence(facts: ComparisonFacts, recommendation: Recommendation) -> dict[str, Any]:
    """Return the numbers that support a recommendation, as plain JSON."""
    comparison, row = facts.comparison, recommendation.row
    baseline = facts.bar_of(row)
    base = facts.base_of(row)
    spread, curve = (facts.seed_spread(row), facts.learning_curve(row)) if row else (None, None)
    return {
        "metric": comparison.primary_metric,
        "best_untouched": baseline.name if baseline else None,
        "tuned": row.name if row else None,
        "difference": _json(comparison.difference_between(row, baseline) if row and baseline else None),
        "train_rows": facts.train_rows(row) if row else None,
        "seeds": _json(spread.scores[comparison.primary_metric] if spread else None),
        "learning_curve": curve.last_step.to_json() if curve else None,
        "test_rows": comparison.test_rows,
        "prompt_tokens_per_call": {
            used_row.name: used_row.prompt_tokens_per_call for used_row in (baseline, row) if used_row
        },
        "passages": _passages(facts),
        "teacher": _teacher(facts),
        "general_accuracy": {used_row.name: used_row.accuracy for used_row in (base, row) if used_row},
        "forgetting": _json(row.forgetting if row else None),
        **({"base_checks": [check.to_json() for check in row.base_checks]} if row and row.base_checks else {}),
    }


def _passages(facts: ComparisonFacts) -> dict[str, Any] | None:
    """Return the difference between the best baselines with and without passages; None if either was not scored."""
    with_passages, without_passages = facts.with_passages, facts.without_passages
    if with_passages is None or without_passages is None:
        return None
    pair = facts.comparison.difference_between(with_passages, without_passages)
    return {"row": with_passages.name, "difference": _json(pair)}


def _teacher(facts: ComparisonFacts) -> dict[str, Any] | None:
    """Return the difference between the teacher's answers and the best student's; None without a teacher."""
    teacher = facts.teacher
    if teacher is None or not facts.students:
        return None
    return {
        "row": teacher.name,
        "difference": _json(facts.answer_difference(facts.students[0])),
        "seconds_per_call": teacher.seconds_per_call,
        "cost_per_call": teacher.cost_per_call,
    }


def _json(record: JsonRecord | None) -> dict[str, Any] | None:
    return record.to_json() if record else None
