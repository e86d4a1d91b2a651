"""The rows of the train and the validation split with one of a few labels, and the groups that they are in.

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

BY = ("file", "table", "tag", "language", "slice", "label")
"""What rows are grouped by. `slice`: the rules of `evaluation.slices`."""
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

    @property
    def source(self) -> str:
        """The table and the file."""
        return f"{self.talk.table}/{self.talk.file}"


def read_known_rows(conversations: Path) -> tuple[list[KnownRow], int]:
    """Return the rows, sorted by id, and how many there are: only the first MOST_ROWS are read. A conversation of
    several answers counts with its last one.

    conversations: the folder of that artifact.
    """
    ids = pq.read_table(conversations / "rows.parquet", columns=["id"], filters=[("split", "!=", "test")])["id"]
    chosen = sorted(ids.to_pylist())[:MOST_ROWS]
    columns, is_chosen = ["id", "messages", "tools", "group"], [("id", "in", chosen)]
    rows = read_columns(conversations / "rows.parquet", columns, is_chosen).to_pylist()
    groups, talks = {row["id"]: row["group"] for row in rows}, read_talks(conversations, chosen)
    last = {item.group: AnsweredQuestion.of(item).reference for item in make_items(rows)}
    return [KnownRow(talk, last[talk.id], str(groups[talk.id])) for talk in talks if talk.id in last], len(ids)


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
    if by == "label":
        counts = Counter(row.label for row in rows).most_common()
        return {label: np.array([row.label == label for row in rows]) for label, _ in counts}
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
