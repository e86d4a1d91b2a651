"""The rows of the train and the validation split with one of a few labels, those that a teacher answered among them,
and the groups that they are in.

Test rows are never read: who throws rows away by what they do for the test score has chosen by that score.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.slice_members import Talk, of_rule, read_talks, without_rules
from ft_pipeline.evaluation.items import make_items
from ft_pipeline.evaluation.rivals.answered_questions import AnsweredQuestion, why_not_few
from ft_pipeline.settings.slices import SliceSettings
from ft_pipeline.tables.clusters import cluster
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.worth.settings import BY

PEOPLE = "people"
"""Who answered rows that no teacher did."""
MOST_ROWS = 4_000
"""Rows that are looked at: the first ones by their ids, which are hashes."""
FEWEST_ROWS, FEWEST_UNITS = 50, 20
"""With fewer rows, or fewer clusters of like questions, no effect could be shown."""


@dataclass(frozen=True)
class KnownRow:
    """A question with its label, and what is known of it."""

    talk: Talk
    label: str
    group: str = ""
    """The split group: rows with equal names are never on both sides of a fold."""
    teacher: str = PEOPLE
    """Who answered."""
    can_be_asked: bool = True
    """Whether a person can label it again: a train row that a person wrote, and whose answer is only text."""
    row: int | None = None
    """Its number in the file."""

    @property
    def source(self) -> str:
        """Where people find it: table/file:row."""
        return f"{self.talk.table}/{self.talk.file}" + (f":{self.row}" if self.row else "")


def read_known_rows(conversations: Path, distilled: Path | None = None) -> tuple[list[KnownRow], int]:
    """Return the rows, sorted by id, and how many there are: at most MOST_ROWS are read, those of people first. A
    conversation of several answers counts with its last one. A teacher's answer that no person gave is no label.

    conversations, distilled: the folders of these artifacts.
    """
    ids = _ids(conversations)
    people = _read(conversations, ids[:MOST_ROWS])
    labels, total = {row.label for row in people}, len(ids)
    of_teacher: list[KnownRow] = []
    if distilled is not None and (room := MOST_ROWS - len(people)) > 0 and (ids := _ids(distilled)):
        of_teacher = [row for row in _read(distilled, ids[:room]) if row.label in labels]
        total += round(len(of_teacher) * len(ids) / min(room, len(ids)))
    return sorted([*people, *of_teacher], key=lambda row: row.talk.id), total


def _ids(folder: Path) -> list[str]:
    """Return the sorted ids of the rows that are no test rows."""
    column = pq.read_table(folder / "rows.parquet", columns=["id"], filters=[("split", "!=", "test")])["id"]
    return sorted(column.to_pylist())


def _read(folder: Path, ids: Sequence[str]) -> list[KnownRow]:
    """Return the rows of one artifact with these ids."""
    columns = ["id", "messages", "tools", "group", "teacher", "split", "row"]
    rows = read_columns(folder / "rows.parquet", columns, [("id", "in", ids)]).to_pylist()
    by_id, last = {row["id"]: row for row in rows}, {item.group: item for item in make_items(rows)}
    found = []
    for talk in read_talks(folder, ids):
        if (item := last.get(talk.id)) is not None:
            row, answered = by_id[talk.id], AnsweredQuestion.of(item)
            can_be_asked = row["split"] == "train" and "teacher" not in row and not answered.calls
            origin = (str(row["group"]), row.get("teacher", PEOPLE), can_be_asked, row["row"])
            found.append(KnownRow(talk, answered.reference, *origin))
    return found


def check(rows: Sequence[KnownRow], units: NDArray[np.int64]) -> None:
    """Raise UserError if nothing can be learned from these rows. units: of each row."""
    if len(rows) < FEWEST_ROWS:
        raise UserError(
            f"The train and validation splits have {len(rows)} answered rows, too few to tell what they are worth. "
            f"Add rows until there are {FEWEST_ROWS}."
        )
    labels = [row.label for row in rows]
    if why := why_not_few(labels):
        raise UserError(f"`ft worth` needs answers that are labels, and {why}. Train once without a file and compare.")
    if len(set(labels)) == 1:
        raise UserError(f"All rows have the answer {labels[0]!r}: nothing is learned. Add rows of other labels.")
    sizes = np.unique(units, return_counts=True)[1]
    if len(sizes) < FEWEST_UNITS or 2 * sizes.max() > len(rows):
        raise UserError(
            f"The {len(rows)} rows are {len(sizes)} clusters of like questions, the largest of {sizes.max()} rows: too "
            f"much alike to tell what they are worth. Add other questions until there are {FEWEST_UNITS} clusters."
        )


def units_of(rows: Sequence[KnownRow]) -> NDArray[np.int64]:
    """Return the unit of each row: the place of the first row with a like question, or of the same split group."""
    texts = pa.array([row.talk.question for row in rows], pa.large_string())
    names = np.array([row.group or row.talk.id for row in rows], dtype=object)
    return cluster(texts, names)


def groups_by(rows: Sequence[KnownRow], by: str, rules: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
    """Return the groups, the largest first: name → which rows are in it. Those of fewer than five rows are no groups.

    by: one of BY. rules: `evaluation.slices` as JSON, for `slice`. UserError if there is nothing to compare.
    """
    if by in ("label", "teacher"):
        values = [row.label if by == "label" else row.teacher for row in rows]
        counts = Counter(values).most_common()
        if len(counts) == 1:
            raise UserError(f"All rows have the same {by}, {counts[0][0]!r}: nothing to compare. Try another --by.")
        # The question is what a teacher does for people: they are no group beside it.
        names = [value for value, _ in counts if by == "label" or value != PEOPLE]
        return {name: np.array([value == name for value in values]) for name in names}
    talks = [row.talk for row in rows]
    if by == "slice":
        found = [of_rule(name, SliceSettings.model_validate(rule), talks) for name, rule in rules.items()]
    else:
        found = [members for members in without_rules(talks) if members.name.startswith(f"{by} ")]
    groups = {members.name.removeprefix(f"{by} "): members.members for members in found}
    wrong = next((name for name, ids in groups.items() if len(ids) in (0, len(rows))), None)
    if wrong is not None:
        amount = "all" if groups[wrong] else "none"
        raise UserError(f"The slice {wrong} of evaluation.slices has {amount} of the rows. Correct its rule.")
    if not groups:
        others = ", ".join(f"--by {name}" for name in BY if name != by)
        raise UserError(f"There are no groups by {by}: five rows or more, and not all. Try {others}.")
    masks = {name: np.array([talk.id in ids for talk in talks]) for name, ids in groups.items()}
    return dict(sorted(masks.items(), key=lambda group: -int(group[1].sum())))
