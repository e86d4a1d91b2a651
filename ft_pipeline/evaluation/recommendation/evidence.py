"""The evidence of a comparison, and the questions that the rules of rules.py ask."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ft_pipeline.evaluation.comparison.sweep_results import rises
from ft_pipeline.evaluation.metrics.definitions import metric_of
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED

ANSWERS = "chrf"
"""The metric that compares generated answers if a row has no loss."""
OTHER_ANSWERS = "rouge_l"
ENOUGH_ROWS = 500
"""Training rows that LoRA usually needs. With fewer rows, a tie says little about tuning."""

Row = Mapping[str, Any]
"""A row of the document of `ft compare --json`."""


@dataclass(frozen=True)
class Recommendation:
    """The result of a deciding rule."""

    decision: str
    reason: str
    row: Row | None = None
    """The tuned row that the decision is based on."""


@dataclass(frozen=True)
class ComparisonFacts:
    """The evidence, with a method or property for each question of the rules."""

    document: Mapping[str, Any]
    """The document of `ft compare --json`."""
    experiments: Mapping[str, Mapping[str, Any]]
    """By experiment, facts about its training: `train_rows`."""
    margin: float
    """Largest tolerated drop of general accuracy."""

    @cached_property
    def metric(self) -> str:
        return self.document["primary_metric"]

    @cached_property
    def scored(self) -> list[Row]:
        """Rows with the primary metric, best first."""
        return [row for row in self.document["rows"] if self.metric in row["scores"]]

    @cached_property
    def plain(self) -> Row | None:
        return next((row for row in self.scored if row["kind"] == "base"), None)

    @cached_property
    def bar(self) -> Row | None:
        """The best baseline: the base model or a prompt variant."""
        return next((row for row in self.scored if row["kind"] in BASELINES), None)

    @cached_property
    def with_passages(self) -> Row | None:
        """The best prompt variant that retrieves passages."""
        return next((row for row in self.scored if row["kind"] in BASELINES and row["passages"]), None)

    @cached_property
    def without_passages(self) -> Row | None:
        """The best baseline that retrieves no passages."""
        return next((row for row in self.scored if row["kind"] in BASELINES and not row["passages"]), None)

    def passages_help(self) -> bool:
        """Return whether passages clearly improve prompting."""
        with_passages, without = self.with_passages, self.without_passages
        return with_passages is not None and without is not None and self.clear(with_passages, without)

    @cached_property
    def teacher(self) -> Row | None:
        """The best teacher that answered the test prompts. Teachers have no loss, so they are ranked by answers."""
        rows = [row for row in self.document["rows"] if row["kind"] == "teacher" and ANSWERS in row["scores"]]
        return max(rows, key=lambda row: row["scores"][ANSWERS]["value"], default=None)

    @cached_property
    def students(self) -> list[Row]:
        """Every use of the small model, baseline or tuned, ranked by its answers, best first."""
        rows = [
            row for row in self.document["rows"] if row["kind"] in (*BASELINES, *TUNED) and ANSWERS in row["scores"]
        ]
        return sorted(rows, key=lambda row: -row["scores"][ANSWERS]["value"])

    def answers(self, student: Row) -> Mapping[str, Any] | None:
        """Return the paired difference of the teacher and a use of the small model, by their answers."""
        assert self.teacher is not None
        return self.lead(self.teacher, student, ANSWERS) or self.lead(student, self.teacher, ANSWERS)

    def teacher_leads(self) -> bool:
        """Return whether the teacher's answers are clearly better than those of every use of the small model.

        By the other metric they must not be clearly worse.
        """
        if self.teacher is None or not self.students:
            return False
        return all(
            self.clear(self.teacher, row, ANSWERS) and not self.clear(row, self.teacher, OTHER_ANSWERS)
            for row in self.students
        )

    @cached_property
    def tuned(self) -> list[Row]:
        return [row for row in self.scored if row["kind"] in TUNED]

    @cached_property
    def sound(self) -> list[Row]:
        """The tuned rows that do not forget beyond the margin."""
        return [row for row in self.tuned if not self.forgets(row)]

    def lead(self, better: Row, worse: Row, metric: str | None = None) -> Mapping[str, Any] | None:
        """Return the paired difference in which `better` leads `worse`; None if it does not."""
        wanted = (better["name"], worse["name"], metric or self.metric)
        pairs = self.document["pairs"]
        return next((pair for pair in pairs if (pair["better"], pair["worse"], pair["metric"]) == wanted), None)

    def words(self, pair: Mapping[str, Any] | None) -> str:
        """Return a paired difference as a sentence; an empty string for None."""
        if pair is None:
            return ""
        return (
            f"{metric_of(self.document, pair['metric']).label}: {pair['better']} leads {pair['worse']} by "
            f"{pair['difference']:.3f} (95 %: {pair['low']:.3f} to {pair['high']:.3f})."
        )

    def clear(self, better: Row, worse: Row, metric: str | None = None) -> bool:
        pair = self.lead(better, worse, metric)
        return pair is not None and pair["low"] > 0

    def ahead(self, row: Row) -> bool:
        """Return whether the row is clearly better than every baseline that was measured."""
        return self.bar is None or self.clear(row, self.bar)

    def forgets(self, row: Row) -> bool:
        """Return whether general accuracy clearly drops by more than the margin, against the base model."""
        if self.plain is None:
            return False
        pair = self.lead(self.plain, row, "general_accuracy")
        return pair is not None and pair["difference"] > self.margin and pair["low"] > 0

    def spread(self, row: Row) -> Mapping[str, Any] | None:
        """Return the spread between the row's training seeds; None if it was trained once."""
        spread = next((entry for entry in self.document.get("seeds", ()) if entry["row"] == row["name"]), None)
        return spread if spread and self.metric in spread["scores"] else None

    def curve(self, row: Row) -> Mapping[str, Any] | None:
        """Return the row's learning curve; None if there is none."""
        curves = self.document.get("learning_curves", ())
        return next((curve for curve in curves if curve["row"] == row["name"]), None)

    def within_a_step(self, row: Row) -> bool:
        """Return whether the learning curve still rises and one more such step would reach the best baseline."""
        curve = self.curve(row)
        if curve is None or self.bar is None or not rises(curve):
            return False
        behind = self.lead(self.bar, row)
        return behind is None or bool(behind["difference"] <= curve["last_step"]["difference"])

    def train_rows(self, row: Row) -> int | None:
        return self.experiments.get(row["experiment"] or "", {}).get("train_rows")


def named(row: Row | None) -> str:
    """Return the name of a baseline for a sentence."""
    return "the plain model" if row is None or row["kind"] == "base" else f"the prompt variant {row['name']}"


def accuracy(row: Row | None) -> float | None:
    """Return the row's general accuracy; None if it was not measured."""
    return (row["general"] or {}).get("accuracy") if row else None


def evidence(case: ComparisonFacts, verdict: Recommendation) -> dict[str, Any]:
    """Return the numbers that support a recommendation, as plain JSON."""
    row, bar = verdict.row, case.bar
    pair = (case.lead(row, bar) or case.lead(bar, row)) if row and bar else None
    forgetting = case.lead(case.plain, row, "general_accuracy") if row and case.plain else None
    return {
        "metric": case.metric,
        "best_untouched": bar["name"] if bar else None,
        "tuned": row["name"] if row else None,
        "difference": dict(pair) if pair else None,
        "train_rows": case.train_rows(row) if row else None,
        "seeds": spread["scores"][case.metric] if row and (spread := case.spread(row)) else None,
        "learning_curve": dict(curve["last_step"]) if row and (curve := case.curve(row)) else None,
        "test_rows": case.document["test_rows"],
        "prompt_tokens_per_call": {used["name"]: used["prompt_tokens_per_call"] for used in (bar, row) if used},
        "passages": _passages(case),
        "teacher": _teacher(case),
        "general_accuracy": {used["name"]: accuracy(used) for used in (case.plain, row) if used},
        "forgetting": dict(forgetting) if forgetting else None,
        "forgetting_margin": case.margin,
    }


def _passages(case: ComparisonFacts) -> dict[str, Any] | None:
    """Return the difference between the best baselines with and without passages; None if either was not scored."""
    with_passages, without = case.with_passages, case.without_passages
    if with_passages is None or without is None:
        return None
    pair = case.lead(with_passages, without) or case.lead(without, with_passages)
    return {"row": with_passages["name"], "difference": dict(pair) if pair else None}


def _teacher(case: ComparisonFacts) -> dict[str, Any] | None:
    """Return the difference between the teacher's answers and the best small model's; None without a teacher."""
    if case.teacher is None or not case.students:
        return None
    best = case.students[0]
    pair = case.answers(best)
    cost = {key: case.teacher.get(key) for key in ("seconds_per_call", "cost_per_call")}
    return {"row": case.teacher["name"], "difference": dict(pair) if pair else None, **cost}
