"""The test items: the turns that every model answers, and the reference answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import Message


@dataclass(frozen=True)
class Item:
    """One answer that is scored."""

    id: str
    """`<conversation id>:<index of the turn>`."""
    group: str
    """The conversation id. The bootstrap resamples whole conversations."""
    messages: tuple[Message, ...]
    """The conversation up to and including the assistant turn."""

    @property
    def reference(self) -> str:
        return self.messages[-1]["content"].strip()


def rows_to_test(rows: Sequence[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    """Return the rows of the test split, sorted by id, at most `most`. Ids are hashes, so this is a fair sample.

    Raises UserError if the test split is empty.
    """
    test_rows = sorted((row for row in rows if row["split"] == "test"), key=lambda row: row["id"])
    if not test_rows:
        raise UserError(
            f"None of the {len(rows)} conversations is in the test split. Add data, or raise data.test_share."
        )
    return test_rows[:most]


def items_of(rows: Sequence[dict[str, Any]]) -> list[Item]:
    """Return an item per assistant turn, with the turns before it: reference answers, not the model's answers."""
    return [
        Item(f"{row['id']}:{turn}", row["id"], tuple(row["messages"][: turn + 1]))
        for row in rows
        for turn, message in enumerate(row["messages"])
        if message["role"] == "assistant"
    ]
