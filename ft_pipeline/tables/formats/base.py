"""The definition of a format: the keys of its raw rows, the columns of its table, and its functions.

To add a format: a module that defines `FORMAT`, and a line in settings/raw_formats.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ft_pipeline.settings.raw_formats import RAW_FORMATS
from ft_pipeline.tables.formats.comparison_texts import ComparisonTexts, views_of_column
from ft_pipeline.tables.reading.batches import Batch
from ft_pipeline.tables.reading.describe import describe_value
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

Record = tuple[Any, ...]
"""The values of one row, in the order of the format's columns."""
ArrowColumns = Mapping[str, pa.Array]
"""Rows, given as the columns of their format."""
PlacedTable = tuple[np.ndarray, pa.Table]
"""Positions in a batch, and the rows at these positions."""


@dataclass(frozen=True)
class Field:
    """A key that a raw row may have."""

    name: str
    description: str
    has_turns: bool = False
    """Whether the value may be a turn or a list of turns."""


@dataclass(frozen=True)
class Column:
    """A column of a format's table."""

    name: str
    description: str
    arrow_type: pa.DataType = field(default_factory=pa.string)
    sources: tuple[str, ...] | None = None
    """The raw keys that it is made from. None: the key of the same name. Empty: no raw row of the format has it."""
    is_prompt: bool = False
    """Whether it contains turns of the human."""
    is_answer: bool = False
    """Whether it contains the answer to learn."""
    nullable: bool = False
    values: tuple[str, ...] = ()
    """All values that it may have; empty: any."""
    minimum: int | None = None

    @property
    def is_text(self) -> bool:
        return bool(self.arrow_type == pa.string())


def messages_column(table: pa.Table) -> pa.Array:
    """Return the column `messages` of a table."""
    return table["messages"].combine_chunks()


class Expand(Protocol):
    """Returns the raw rows of a parsed document: several, one or none, each with the number of the document."""

    def __call__(self, document: Any, sidecar: Sidecar, feedback: Any) -> Iterable[Any]:
        """Return the rows. feedback: what `Format.prepare` returned."""


@dataclass(frozen=True, eq=False)
class Format:
    """One kind of raw rows, and the table that they become."""

    name: str
    """The name of the raw folder and of the table."""
    description: str
    """Description of the table."""
    raw_row: str
    """The keys of a raw row, as docs/formats.md lists them (Markdown)."""
    fields: tuple[Field, ...]
    """The keys that are used. Other keys are dropped and listed once per file."""
    columns: tuple[Column, ...]
    required: tuple[frozenset[str], ...]
    """If no row of a file has one of these sets of keys, the file has another format."""
    convert: Callable[[dict[str, Any], Sidecar], Record | Fault]
    """Converts a raw row. No value changes its type. It may leave out the last columns, which are then null.
    convert.py reads the tags."""
    signs: frozenset[str] = frozenset()
    """A row of another format that has one of these keys (and none of its main keys) has this format."""
    precedence: tuple[tuple[str, frozenset[str]], ...] = ()
    """(key, other keys): if a row has the first key, the other keys are not read."""
    checks: tuple[str, ...] = ()
    """Names of the rules in checks/row_rules.py, in addition to those that every text and every answer gets."""
    comparison_texts: Callable[[ArrowColumns], ComparisonTexts] = views_of_column
    """Returns the texts that rows are compared by."""
    convert_columns: Callable[[Sequence[Any], tuple[str, ...], list[int]], PlacedTable | None] | None = None
    """A fast path of `convert` for files without a sidecar's columns. Arguments: the values of a batch, a tuple of keys
    and the positions of the objects with these keys. Returns the rows that it can convert; None if there are none."""
    pair_texts: Callable[[pa.Table], list[tuple[str, str, str]]] | None = None
    """For preference pairs: returns (prompt, preferred answer, other answer) of each row, normalized."""
    contradiction: str = "contradicting_pair"
    """Reason code of a row whose pair (`pair_texts`) is the reverse of an earlier one."""
    expand: Mapping[str, Expand] = field(default_factory=dict)
    """Table → function that returns the raw rows of a document for it. Empty: a document is a row."""
    also_reads: tuple[str, ...] = ()
    """Other formats whose files have rows for this table, too."""
    prepare: Callable[[Callable[[], Iterable[Batch]], Sidecar], Any] | None = None
    """Returns what `expand` must know of the whole file. Arguments: a function that reads the file, and the sidecar."""
    group_column: str | None = None
    """Rows with the same value in this column are in one split, whatever their prompts."""
    has_threads: bool = False
    """Whether a row may be the beginning of another row, and is then set aside."""
    min_rows: int = 2
    """A file with fewer rows is refused."""
    is_optional: bool = False
    """Whether a table without files is no input of other assets. So formats that were added later change no fingerprint
    of a project without such files."""
    to_messages: Callable[[pa.Table], pa.Array] = messages_column
    """Returns the rows of a conversational format as turns, in the type arrow_schema.MESSAGES."""

    @property
    def may_have_names(self) -> bool:
        """Whether a column of the raw rows may name groups (Sidecar.group)."""
        return GROUP_FIELD in self.fields

    @property
    def main_keys(self) -> frozenset[str]:
        """A row with none of these keys may have another format."""
        return RAW_FORMATS[self.name].main_keys

    @property
    def is_conversational(self) -> bool:
        """Whether the rows become conversations."""
        return RAW_FORMATS[self.name].is_conversational

    @cached_property
    def keys(self) -> frozenset[str]:
        """The names of the fields."""
        return frozenset(key.name for key in self.fields)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def read_tags(value: dict[str, Any]) -> list[str] | Fault | None:
    """Return the tags of a row; None if it has none. A text, such as a CSV cell, is one tag."""
    tags = value.get("tags")
    if isinstance(tags, str):
        return None if is_empty(tags) else [tags]
    if tags is None or tags == []:
        return None
    if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        return Fault("wrong_type", f"`tags` is {describe_value(tags)}; it must be a list of texts")
    return tags


GROUP_FIELD = Field("group", "What rows have in common that must be in one split: a user, a thread, a document")
"""A key of the formats that become conversations."""
TAGS_FIELD = Field("tags", "Labels of the row: a list of texts")
"""The key that every format has."""


def not_text(value: dict[str, Any], names: tuple[str, ...]) -> Fault | None:
    """Return the fault of a row in which one of these values is neither a text nor null, or None."""
    for name in names:
        if not isinstance(value.get(name), str | None):
            return Fault("wrong_type", f"`{name}` is {describe_value(value[name])}; it must be a text")
    return None
