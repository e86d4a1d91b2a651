"""What comparison.json says of the checks of a project: fields that are wrong, and labels that are mistaken."""

from collections.abc import Sequence

from pydantic import BaseModel

from ft_pipeline.evaluation.comparison.score import Score

NO_LABEL_TITLE = "no label"
"""The heading of the answers without a label."""


class FieldResult(BaseModel, frozen=True):
    """A field in the answers of a row."""

    field: str
    answers: int
    """In which it counts: the answer or the reference has it."""
    right: Score
    wrong: int
    missing: int
    extra: int

    def describe(self) -> str:
        """Return how often it is wrong, and how."""
        counts = {"another value": self.wrong, "missing": self.missing, "extra": self.extra}
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        return f"`{self.field}` ({1 - self.right.value:.0%} of {self.answers} answers{': ' if kinds else ''}{kinds})"


class FieldResults(BaseModel, frozen=True):
    """The fields of a check of JSON answers, for one row."""

    row: str
    metric: str
    fields: Sequence[FieldResult]
    """The one that is wrong most often first."""

    @property
    def worst(self) -> FieldResult | None:
        """The field that is wrong most often; None if all are right."""
        return next((result for result in self.fields if result.right.value < 1), None)

    def describe_worst(self) -> list[str]:
        """Return what is wrong most often, as a sentence; none if all fields are right."""
        worst = self.worst
        return [] if worst is None else [f"{self.row}, {self.metric}: wrong most often is {worst.describe()}."]


class Confusion(BaseModel, frozen=True):
    """The labels of a classification, for one row."""

    row: str
    metric: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    """A list per label of the references, with a number per label of the answers; the last: answers without a label."""

    @property
    def worst(self) -> tuple[str, str, int] | None:
        """The label, what it is taken for most often, and how often; None if all answers are right."""
        titles = [*self.labels, NO_LABEL_TITLE]
        wrong = [
            (count, -row, -column)
            for row, counts in enumerate(self.counts)
            for column, count in enumerate(counts)
            if column != row and count
        ]
        if not wrong:
            return None
        count, row, column = max(wrong)
        return self.labels[-row], titles[-column], count

    def describe_worst(self) -> list[str]:
        """Return which label is mistaken most often, as a sentence; none if all answers are right."""
        if self.worst is None:
            return []
        expected, found, count = self.worst
        taken = "has no label" if found == NO_LABEL_TITLE else f"is taken for {found!r}"
        return [f"{self.row}, {self.metric}: most often {expected!r} {taken} ({count} of {self.answers} answers)."]

    @property
    def answers(self) -> int:
        """The number of answers."""
        return sum(map(sum, self.counts))
