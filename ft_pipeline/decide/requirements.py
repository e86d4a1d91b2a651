"""What each row that may be released meets of each requirement, as decision.json keeps it.

matrix.py makes it once, with the decision. Every page and command reads it here, and none decides again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict

from ft_pipeline import page

Outcome = Literal["holds", "cannot be told", "fails"]
OUTCOMES: Sequence[Outcome] = get_args(Outcome)
"""The worst comes last."""
MARKS: Mapping[Outcome, str] = {"holds": "✓", "cannot be told": "?", "fails": "✗"}
IS_NEW = "is another model than the champion"
"""What is asked of a candidate, and says nothing about the champion itself."""


class Cell(BaseModel):
    """What is known of one requirement of one row."""

    model_config = ConfigDict(frozen=True)

    requirement: str
    outcome: Outcome
    sentence: str
    """Without the name of the row, and without a full stop."""

    @property
    def mark(self) -> str:
        """A sign for the outcome."""
        return MARKS[self.outcome]


class ByHand(BaseModel):
    """What is known of a row that a person may release."""

    model_config = ConfigDict(frozen=True)

    lacks: Sequence[str]
    """The sentences of what does not hold (lacking)."""
    reason: str
    """What it beats, and by how much; empty if it lacks something."""
    evidence: Mapping[str, Any]
    """The numbers behind it (evidence.py)."""


class Requirements(BaseModel):
    """The matrix of a decision."""

    model_config = ConfigDict(frozen=True)

    matrix: Mapping[str, Sequence[Cell]] = {}
    """By row, best first. Empty in decisions of older versions."""
    by_hand: Mapping[str, Mapping[str, ByHand]] = {}
    """By fingerprint of the champion to beat ("": none), then by row. Empty in decisions of older versions."""

    @classmethod
    def of(cls, decided: Mapping[str, Any]) -> Self:
        """Return the matrix of a decision.json."""
        return cls(matrix=decided.get("matrix", {}), by_hand=decided.get("by_hand", {}))

    def about(self, row: str | None) -> list[Cell]:
        """Return what a row meets of the requirements of a model; empty if it was not examined."""
        return [cell for cell in self.matrix.get(row or "", ()) if cell.requirement != IS_NEW]

    def section(self) -> page.Section:
        """Return each requirement with what each row meets of it: the worst, if it has several parts; nothing if it is
        not asked of that row."""
        names = dict.fromkeys(cell.requirement for cells in self.matrix.values() for cell in cells)
        rows = [[page.Cell(name), *(_told(self._worst(row, name)) for row in self.matrix)] for name in names]
        headings = [page.Heading(title, is_number=False) for title in ("requirement", *self.matrix)]
        return page.Section("What a release requires: ✓ holds, ? cannot be told, ✗ fails.", page.Grid(headings, rows))

    def _worst(self, row: str, requirement: str) -> Outcome | None:
        outcomes = [cell.outcome for cell in self.matrix[row] if cell.requirement == requirement]
        return max(outcomes, key=OUTCOMES.index, default=None)


def _told(outcome: Outcome | None) -> page.Cell:
    return page.Cell(outcome, short=MARKS[outcome]) if outcome else page.Cell("")


def lacking(cells: Sequence[Cell]) -> list[str]:
    """Return the sentences of what does not hold, each once: two rivals may be told in the same words."""
    return list(dict.fromkeys(cell.sentence for cell in cells if cell.outcome != "holds"))
