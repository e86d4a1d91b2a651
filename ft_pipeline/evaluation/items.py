"""The test items: what is asked of every model, and the reference answer."""

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
    """The conversation, the unit that the bootstrap draws."""
    messages: tuple[Message, ...]
    """The conversation up to and including the assistant turn."""

    @property
    def reference(self) -> str:
        return self.messages[-1]["content"].strip()


def rows_to_test(rows: Sequence[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    """The rows of the test split in the order of their id, which is a hash: `most` of them are a fair sample.

    UserError where the test split is empty.
    """
    found = sorted((row for row in rows if row["split"] == "test"), key=lambda row: row["id"])
    if not found:
        raise UserError(
            f"none of the {len(rows)} conversations is in the test split; add data, or raise data.test_share"
        )
    return found[:most]


def items_of(rows: Sequence[dict[str, Any]]) -> list[Item]:
    """Every assistant turn of every row, with the turns before it (the reference answers, not the model's own)."""
    return [
        Item(f"{row['id']}:{turn}", row["id"], tuple(row["messages"][: turn + 1]))
        for row in rows
        for turn, message in enumerate(row["messages"])
        if message["role"] == "assistant"
    ]
