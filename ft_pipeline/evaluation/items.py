"""The test items: the turns that every model answers, and the reference answer."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import Message
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.turns import is_trained, spoken_text

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Item:
    """A test item: one assistant turn of a test conversation, which every model answers."""

    id: str
    """`<conversation id>:<index of the turn>`."""
    group: str
    """The conversation id. It is the unit of all intervals."""
    messages: tuple[Message, ...]
    """The conversation up to and including the assistant turn."""
    tools: str | None = None
    """The declared tools as JSON text."""

    @property
    def question_key(self) -> str:
        """A hash of the words of the conversation's first question, by which its use in tests is counted: white space,
        signs and answers may be edited."""
        question = next((turn["content"] for turn in self.messages if turn["role"] == "user"), "")
        return hashlib.sha256(" ".join(_WORD.findall(question.lower())).encode()).hexdigest()

    @property
    def reference(self) -> str:
        """The reference answer: the text of the last turn, with the tools that it calls."""
        return spoken_text(self.messages[-1]).strip()

    @property
    def written(self) -> str:
        """The reference answer with its reasoning: as much as a model has to write."""
        reasoning = self.messages[-1].get("reasoning_content")
        return f"{reasoning}\n{self.reference}" if reasoning else self.reference

    @property
    def calls(self) -> Sequence[dict[str, str]]:
        """The calls of tools in the reference answer."""
        return self.messages[-1].get("tool_calls") or ()

    @property
    def uses_tools(self) -> bool:
        """Whether calls in the answer are scored: tools are declared, or the reference answer calls some."""
        return bool(self.tools or self.calls)


def read_rows(conversations: Path, split: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a conversations artifact. split: only its rows; default: all."""
    columns = ["id", "split", "messages", "tools", "table", "file"]
    table = read_columns(conversations / "rows.parquet", columns)
    return (table if split is None else table.filter(pc.field("split") == split)).to_pylist()


def groups_of(conversations: Path) -> dict[str, str]:
    """Return the split group of each row of a conversations artifact, by id."""
    table = read_columns(conversations / "rows.parquet", ["id", "group"])
    return dict(zip(table["id"].to_pylist(), table["group"].to_pylist(), strict=True))


def declares_tools(conversations: Path) -> bool:
    """Return whether a row of a conversations artifact declares tools. Only the statistics of the file are read."""
    metadata = pq.read_metadata(conversations / "rows.parquet")
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(group.num_columns))
    statistics = (column.statistics for column in columns if column.path_in_schema == "tools")
    return any(found is not None and found.num_values > 0 for found in statistics)


def select_rows(rows: Sequence[dict[str, Any]], split: str, max_rows: int | None) -> list[dict[str, Any]]:
    """Return at most `max_rows` rows of a split, sorted by id. Ids are hashes, so this is a random sample."""
    return sorted((row for row in rows if row["split"] == split), key=lambda row: row["id"])[:max_rows]


def select_test_rows(rows: Sequence[dict[str, Any]], max_rows: int | None) -> list[dict[str, Any]]:
    """Return select_rows of the test split. Raises UserError if it is empty."""
    test_rows = select_rows(rows, "test", max_rows)
    if not test_rows:
        raise UserError(
            f"None of the {len(rows)} conversations is in the test split. Add data, or raise data.test_share."
        )
    return test_rows


def make_items(rows: Sequence[dict[str, Any]]) -> list[Item]:
    """Return an item per assistant turn, with the turns before it. Earlier answers are the reference answers, not the
    model's. A turn of the weight 0 is no reference."""
    return [
        Item(f"{row['id']}:{turn}", row["id"], tuple(row["messages"][: turn + 1]), row.get("tools"))
        for row in rows
        for turn, message in enumerate(row["messages"])
        if is_trained(message)
    ]
