"""The questions that prompts are compared on: validation rows, and where these are few, train rows beside them.

The best of 30 prompts on 24 questions is mostly luck. A base model did not learn from the train rows, so those that
no prompt shows are as good a question as a validation row.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.evaluation.items import Item, make_items, select_rows
from ft_pipeline.evaluation.prompt_search.search import MOST_ROWS

TRAIN_PART = 4
"""At most one train row of so many is a question: the others are what examples are retrieved from."""
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Questions:
    """What prompts are compared on."""

    items: list[Item]
    train_rows: int
    """How many of their rows are train rows."""
    rows: list[dict[str, Any]]
    """The rows of which examples are retrieved: none is in one split group with a question."""


def choose_questions(
    rows: Rows, groups: Mapping[str, str], shown: Collection[str], *, asks_train_rows: bool
) -> Questions:
    """Return the questions of a search, the first ones by their ids, which are hashes.

    groups: the split group of each row, by id. shown: ids of the train rows that prompts show as fixed examples.
    """
    validation = select_rows(rows, "validation", MOST_ROWS)
    if not validation or not asks_train_rows:
        return Questions(make_items(validation), 0, list(rows))
    train = select_rows(rows, "train", None)
    not_asked = {groups.get(name, name) for name in shown}
    most = min(MOST_ROWS - len(validation), len(train) // TRAIN_PART)
    asked = [row for row in train if groups.get(row["id"], row["id"]) not in not_asked][:most]
    asked_groups = {groups.get(row["id"], row["id"]) for row in asked}
    kept = [row for row in rows if groups.get(row["id"], row["id"]) not in asked_groups or row["split"] != "train"]
    return Questions(make_items([*validation, *asked]), len(asked), kept)
