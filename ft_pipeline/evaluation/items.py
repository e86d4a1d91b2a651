"""The test items: the turns that every model answers, and the reference answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import Message


@dataclass(frozen=True)
class Item:
    """A test item: one assistant turn of a test conversation, which every model answers."""

    id: str
    """`<conversation id>:<index of the turn>`."""
    group: str
    """The conversation id. The bootstrap resamples whole conversations."""
    messages: tuple[Message, ...]
    """The conversation up to and including the assistant turn."""

    @property
    def reference(self) -> str:
        """The reference answer: the text of the last turn."""
        return self.messages[-1]["content"].strip()


def select_test_rows(rows: Sequence[dict[str, Any]], max_rows: int | None) -> list[dict[str, Any]]:
    """Return at most `max_rows` rows of the test split, sorted by id. Ids are hashes, so this is a random sample.

    Raises UserError if the test split is empty.
    """
    test_rows = sorted((row for row in rows if row["split"] == "test"), key=lambda row: row["id"])
    if not test_rows:
        raise UserError(
            f"None of the {len(rows)} conversations is in the test split. Add data, or raise data.test_share."
        )
    return test_rows[:max_rows]


def make_items(rows: Sequence[dict[str, Any]]) -> list[Item]:
    """Return an item per assistant turn, with the turns before it. Earlier answers are the reference answers, not the
    model's."""
    return [
        Item(f"{row['id']}:{turn}", row["id"], tuple(row["messages"][: turn + 1]))
        for row in rows
        for turn, message in enumerate(row["messages"])
        if message["role"] == "assistant"
    ]
