"""What the rules of a recommendation ask: the comparison, what was decided on it, and what was trained on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.conclusion import OPEN
from ft_pipeline.decide.kinds import WITHOUT_MODEL
from ft_pipeline.decide.sentences import say, tell, tell_ahead, tell_opinion
from ft_pipeline.evaluation.comparison.result_records import LearningCurve, SeedSpread

ANSWERS, SECOND = "chrf", "rouge_l"
"""The metric that compares a teacher, which may have no loss, and that by which it must not be clearly worse."""
SERIES = 3
"""Trainings of a series from which its spread is quoted for others."""


@dataclass(frozen=True)
class Decided:
    """What was decided. The recommendation follows it."""

    row: str | None
    """The row to use now: that of the verdict; while it is open, the champion. None if there is none."""
    moves: bool
    failed: Mapping[str, Sequence[str]]
    """By row that may be released, the requirements that it fails."""
    kind: str
    """Of the verdict (conclusion.Kind), whose sentence is the only one that concludes."""

    @property
    def is_open(self) -> bool:
        """Whether nothing is decided yet."""
        return self.kind in OPEN

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Decided":
        """Return what a decision.json says."""
        decision, said = document["decision"], document["verdict"]
        champion = decision["name"] if decision["move"] else document["champion_row"]
        row = champion if said["kind"] in OPEN else said["row"]
        return cls(row, decision["move"], decision["failed"], said["kind"])


@dataclass(frozen=True)
class Desk:
    """A comparison, with a method or property for each question of the rules."""

    comparison: Comparison
    """What decides."""
    shown: Comparison
    """The same as people see it, for sentences with numbers."""
    experiments: Mapping[str, Mapping[str, Any]]
    """By experiment, facts about its training: `train_rows`."""
    min_test_rows: int
    """Smallest number of test conversations for a decision (PromotionSettings)."""
    decided: Decided | None = None
    """None: the comparison alone is looked at."""
    fits: str = ""
    """Which objectives fit the data of the project, in sentences."""

    # --- what was decided

    @cached_property
    def used(self) -> Row | None:
        """The row to use now, by the verdict; None if no model can go out."""
        if self.decided is None or self.decided.kind == "none":
            return None
        return self.comparison.row(self.decided.row)

    @property
    def is_open(self) -> bool:
        """Whether the verdict is that nothing is decided yet."""
        return self.decided is not None and self.decided.is_open

    # --- rows

    @cached_property
    def tuned(self) -> list[Row]:
        """The tuned rows with the primary metric, best first. Once it is decided: those that may be released, which an
        adapter may not that has a merged model."""
        rows = self.comparison.tuned()
        return [row for row in rows if self.decided and row.name in self.decided.failed] or rows

    @cached_property
    def sound(self) -> list[Row]:
        """Those of them that are usable and are not shown to have lost anything."""
        return [row for row in self.tuned if self.comparison.sound(row)]

    @cached_property
    def best(self) -> Row:
        """The best sound row that beats its bar; the best sound row if none does."""
        return next((row for row in self.sound if self.beats_bar(row)), self.sound[0])

    @cached_property
    def teacher(self) -> Row | None:
        """The best teacher that was scored. Teachers are ranked by their answers, because they have no loss."""
        return next((row for row in self.comparison.ranked(ANSWERS) if row.kind == "teacher"), None)

    @cached_property
    def students(self) -> list[Row]:
        """Every usable baseline and tuned row, ranked by its answers, best first."""
        rows = [row for row in self.comparison.ranked(ANSWERS) if row.rights.is_bar or row.rights.is_tuned]
        return [row for row in rows if self.comparison.usable(row)]

    @property
    def shown_student(self) -> Row:
        """The best of them whose test scores people see."""
        return next((row for row in self.students if not self.is_screened_out(row)), self.students[0])

    def teacher_leads(self) -> bool:
        """Return whether the teacher's answers are clearly better than those of every student, and by SECOND not
        clearly worse."""
        teacher, better = self.teacher, self.comparison.better
        return (
            teacher is not None
            and bool(self.students)
            and all(better(teacher, row, ANSWERS) and not better(row, teacher, SECOND) for row in self.students)
        )

    @cached_property
    def looking_up(self) -> Row | None:
        """The best baseline that retrieves passages."""
        return self.comparison.best_prompt(passages=True)

    @cached_property
    def without_passages(self) -> Row | None:
        """The best baseline that retrieves no passages."""
        return self.comparison.best_prompt(passages=False)

    def passages_help(self) -> bool:
        """Return whether passages clearly improve prompting."""
        rows = self.looking_up, self.without_passages
        return rows[0] is not None and rows[1] is not None and self.comparison.better(rows[0], rows[1])

    def bar(self, row: Row | None) -> Row | None:
        """Return what a tuned row must beat: the best untouched use of its base model; of any for None."""
        return self.comparison.best_bar(row)

    def base_of(self, row: Row | None) -> Row | None:
        """Return the base model that the row's general accuracy is compared with; the best one if it was not
        measured."""
        claims = self.comparison.about(row, "general") if row else []
        own = next((self.comparison.row(claim.rival) for claim in claims), None)
        return own or self.comparison.plain()

    # --- what decides

    def decides(self, row: Row, rival: Row) -> Claim:
        """Return the claim that decides between two rows: for an adapter, also the opinion on its merged model, which
        is what would be released."""
        merged = [other for other in self.comparison.rows if other.kind == "merged" and row.kind == "adapter"]
        forms = [row, *(other for other in merged if other.experiment == row.experiment)]
        claims = [self.comparison.deciding(form, rival) for form in forms]
        return next((claim for claim in claims if claim.kind == "opinion"), claims[0])

    def beats_bar(self, row: Row) -> bool:
        """Return whether a row is clearly better than the best untouched use of its base model, by what decides, and
        its answers are as good. True if there is no such use."""
        bar = self.bar(row)
        if bar is None:
            return True
        claim = self.decides(row, bar)
        return claim.verdict == "shown" and (claim.kind == "opinion" or not self.answers_behind(row, bar))

    def answers_behind(self, row: Row, rival: Row) -> list[Claim]:
        """Return the second key of a row against a rival, if the answers are not shown to be as good."""
        return [claim for claim in self.comparison.about(row, "answers", rival=rival.name) if not claim.holds]

    def is_silent(self, row: Row) -> bool:
        """Return whether nothing that was measured decides between a row and its bar."""
        bar = self.bar(row)
        return bar is not None and self.decides(row, bar).because == "no_evidence"

    @cached_property
    def silent(self) -> list[Row]:
        """The sound rows of which nothing that was measured says whether tuning helped: of each training one, the
        merged model if there is one."""
        rows = [row for row in self.sound if row.variant is None and self.is_silent(row)]
        merged = {row.experiment for row in rows if row.kind == "merged"}
        return [row for row in rows if row.kind == "merged" or row.experiment not in merged]

    def is_screened_out(self, row: Row) -> bool:
        """Return whether nobody sees the test scores of a row."""
        return self.comparison.why_screened_out(row) is not None

    def tell_standing(self, row: Row, rival: Row) -> str:
        """Return how a row stands against a rival, as a sentence: that one of them was screened out, or else the
        opinion that decides, or else its lead on the primary metric; an empty string if it does not lead."""
        claim, screened = self.decides(row, rival), self._tell_screen(row, rival)
        if claim.kind == "opinion" and not screened:
            return tell_opinion(claim)
        return screened or tell_ahead(self.shown, row, rival)

    def tell(self, row: Row, rival: Row, metric: str | None = None) -> str:
        """Return the lead between two rows as a sentence, whichever is ahead; empty if they were not compared."""
        return self._tell_screen(row, rival) or tell(self.shown, row, rival, metric)

    def _tell_screen(self, *rows: Row) -> str:
        """Return that one of the rows was screened out, as a sentence; empty if none was."""
        claims = filter(None, (self.comparison.why_screened_out(row) for row in rows))
        return next((f"{claim.row} {say(self.comparison, claim)}." for claim in claims), "")

    # --- trainings

    def train_rows(self, row: Row) -> int | None:
        """Return the row's number of training rows written by people; None if unknown."""
        return self.experiments.get(row.experiment or "", {}).get("train_rows")

    def curve(self, row: Row) -> LearningCurve | None:
        """Return the row's learning curve; None if there is none."""
        return next((curve for curve in self.comparison.learning_curves if curve.row == row.name), None)

    def one_step_closes_gap(self, row: Row) -> bool:
        """Return whether the learning curve still rises, and a further step like the last would reach the bar."""
        curve, bar = self.curve(row), self.bar(row)
        if curve is None or bar is None or not curve.rises:
            return False
        gap = self.comparison.lead(bar, row) if self.comparison.leads(bar, row) else None
        return gap is None or (gap.value or 0.0) <= curve.last_step.difference

    def seeds(self, row: Row) -> SeedSpread | None:
        """Return the spread between the row's training seeds, as people see it; None if it was trained once."""
        spread = next((entry for entry in self.shown.seeds if entry.row == row.name), None)
        return spread if spread and self.comparison.primary in spread.scores else None

    def pooled_spread(self, row: Row) -> float | None:
        """Return the standard deviation between trainings of the row's technique on its base model, over the series
        with three or more of them; None if there is none."""
        squares, freedom = 0.0, 0
        for series in self.comparison.seeds:
            other, scores = self.comparison.row(series.row), series.scores.get(self.comparison.primary)
            same = other is not None and (other.technique, other.base_model) == (row.technique, row.base_model)
            if same and scores is not None and len(scores.values) >= SERIES:
                squares += sum((value - scores.mean) ** 2 for value in scores.values)
                freedom += len(scores.values) - 1
        return math.sqrt(squares / freedom) if freedom else None


def phrase(row: Row | None) -> str:
    """Return the phrase for a baseline in a sentence."""
    if row is not None and row.kind == "calibrated":
        return f"the base model's choice among labels ({row.name})"
    if row is not None and row.rights.without_model:
        return f"{WITHOUT_MODEL[row.kind]} ({row.name})"
    return "the base model" if row is None or row.kind == "base" else f"the prompt variant {row.name}"
