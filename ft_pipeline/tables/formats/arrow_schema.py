"""The Arrow columns of each format's table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.tables.formats.base import Column, Format, Record

TOOL_CALLS = pa.list_(pa.struct([("id", pa.string()), ("name", pa.string()), ("arguments", pa.string())]))
"""Calls of tools. `arguments` is JSON text without white space between its parts, with its keys in the order given:
Arrow has no type for objects of any shape, and the order is what the model learns to write. `id` may be null."""
MESSAGES = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("reasoning_content", pa.string()),
            ("tool_calls", TOOL_CALLS),
            ("tool_call_id", pa.string()),
            ("name", pa.string()),
            ("weight", pa.float64()),
        ]
    )
)
"""Turns. Only role and content are never null; content is empty in an assistant turn that only calls tools.
reasoning_content, tool_calls and weight (0: shown, not trained; null: trained) are those of an assistant turn,
tool_call_id that of a tool turn. name is that of the tool or of the speaker."""
TOOLS = Column(
    "tools",
    "The declared tools as JSON text: a list of {type: function, function: {name, description, parameters}}; or null",
    sources=(),
    nullable=True,
)
TAGS = Column("tags", "Labels of the row, or null; they are no part of its id", pa.list_(pa.string()), nullable=True)
ORIGIN = {
    column.name: column
    for column in (
        Column("file", "The raw file, relative to its format folder"),
        Column("row", "Line, list index or data row in that file, counted from 1", pa.int64(), minimum=1),
        Column("id", "SHA-256 of the row's content"),
    )
}
"""The columns that every table has after those of its format."""


def schema_of(row_format: Format, *others: str) -> pa.Schema:
    """Return the schema of the format's columns, followed by `others`, which are names of ORIGIN."""
    columns = (*row_format.columns, *(ORIGIN[name] for name in others))
    return pa.schema([(column.name, column.arrow_type) for column in columns])


def columns_of(row_format: Format, records: Sequence[Record]) -> dict[str, pa.Array]:
    """Return the records as the columns of their format. The last columns are null if all records leave them out."""
    cells: list[Sequence[Any]] = [*zip(*records, strict=True)]
    cells += [[None] * len(records)] * (len(row_format.columns) - len(cells))
    return {
        column.name: pa.array(items, column.arrow_type) for column, items in zip(row_format.columns, cells, strict=True)
    }


def with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with the columns of a schema. Columns and keys of turns that an older version did not write are
    null."""
    if table.schema.equals(schema):
        return table
    missing = [field for field in schema if field.name not in table.column_names]
    for field in missing:
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)


def read_columns(path: Path, names: Sequence[str], filters: Any = None) -> pa.Table:
    """Return these columns of a Parquet table, except those that an older version did not write."""
    written = pq.read_schema(path).names
    return pq.read_table(path, columns=[name for name in names if name in written], filters=filters)


def type_name(arrow_type: pa.DataType) -> str:
    """Return the type of a column for display."""
    if pa.types.is_list(arrow_type):
        return f"list<{type_name(arrow_type.value_type)}>"
    if pa.types.is_struct(arrow_type):
        return f"{{{', '.join(field.name for field in arrow_type)}}}"
    if pa.types.is_floating(arrow_type):
        return "float"
    if pa.types.is_boolean(arrow_type):
        return "bool"
    return "int" if pa.types.is_integer(arrow_type) else "str"
