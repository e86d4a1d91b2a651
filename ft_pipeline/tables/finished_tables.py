"""The finished tables: the columns of each, with their types and what holds for them. table_schemas.py checks them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from ft_pipeline.tables.formats.arrow_schema import MESSAGES, ORIGIN, TAGS, TOOLS
from ft_pipeline.tables.formats.base import Column, Format
from ft_pipeline.tables.splits import SPLITS


@dataclass(frozen=True)
class FinishedTable:
    """A table that a step writes, as one Parquet file."""

    name: str
    columns: tuple[Column, ...]
    unique: tuple[str, ...] = ()
    """Columns by which no two rows are equal."""
    rules: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """What holds for each row → function from a DataFrame of Arrow columns to a bool per row."""

    @property
    def arrow_schema(self) -> pa.Schema:
        return pa.schema([(column.name, column.arrow_type) for column in self.columns])

    @property
    def descriptions(self) -> dict[str, str]:
        return {column.name: column.description for column in self.columns}

    def with_columns(self, name: str, *columns: Column) -> "FinishedTable":
        """Return a table with further columns."""
        return replace(self, name=name, columns=(*self.columns, *columns))


_TABLE = Column("table", "The table that the row comes from")
SET_ASIDE = FinishedTable(
    "set_aside",
    (
        ORIGIN["file"],
        ORIGIN["row"],
        Column("code", "Why the row is not used; docs/formats.md lists the codes"),
        Column("message", "What is wrong with this row, and how to fix it"),
        Column("raw", "The row as written in the file, truncated to 2,000 characters"),
        Column("copy_of", "The row that it duplicates, contradicts or nearly equals, as file:row", nullable=True),
    ),
)
"""set_aside.parquet of a table: its rows that are not used."""
CONVERSATIONS_SET_ASIDE = replace(
    SET_ASIDE, columns=(Column("table", "The table that the row was meant for"), *SET_ASIDE.columns)
)
"""set_aside.parquet of tables that are made from others."""
QUARANTINE = CONVERSATIONS_SET_ASIDE.with_columns(
    "quarantine", Column("data_version", "Fingerprint of the artifact that set the row aside")
)
FILES = FinishedTable(
    "files",
    (
        ORIGIN["file"],
        Column("sha256", "Hash of the file's content"),
        Column("status", "accepted or refused; no row of a refused file is used", values=("accepted", "refused")),
        Column("read", "Rows read; read = accepted + quarantined + duplicates", pa.int64(), minimum=0),
        Column("accepted", "Rows in the table", pa.int64(), minimum=0),
        Column("quarantined", "Rows set aside for a fault", pa.int64(), minimum=0),
        Column("duplicates", "Rows set aside as duplicates; the first one is kept", pa.int64(), minimum=0),
        Column("error_code", "Why the whole file is refused", nullable=True),
        Column("error_message", "What is wrong with the file, and what to do", nullable=True),
        Column("max_quarantined", "Maximum quarantined share, from the sidecar", pa.float64(), nullable=True),
        Column("split", "test for a golden test file", values=("test",), nullable=True),
        Column("allow", "Codes that the sidecar allows", pa.list_(pa.string())),
    ),
    unique=("file",),
    rules={
        "read = accepted + quarantined + duplicates": lambda rows: (
            rows["read"] == rows["accepted"] + rows["quarantined"] + rows["duplicates"]
        )
    },
)
"""files.parquet of a table: the account of each file, with fields of FileAccount."""
CONVERSATIONS = FinishedTable(
    "conversations",
    (
        Column("id", "SHA-256 of the row's content in its table"),
        Column("split", "train, validation or test", values=SPLITS),
        Column("group", "Hash of the template of the human turns: rows with equal prompts are in the same split"),
        Column(
            "cluster",
            "Of a held-out row, the cluster of rows with like questions: intervals are over clusters",
            nullable=True,
        ),
        Column("messages", "The turns as {role, content, …}; role is system, user, assistant or tool", MESSAGES),
        TOOLS,
        TAGS,
        _TABLE,
        ORIGIN["file"],
        ORIGIN["row"],
    ),
    unique=("id",),
)


def table_of_format(row_format: Format) -> FinishedTable:
    """Return the table of a format."""
    return FinishedTable(row_format.name, (*row_format.columns, *ORIGIN.values()), unique=("id",))
