"""The Arrow columns of each format's table."""

from collections.abc import Sequence

import pyarrow as pa

from ft_pipeline.tables.formats.base import Column, Format, Record

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("reasoning_content", pa.string())]))
"""Turns. reasoning_content is null except in assistant turns that have it."""
ORIGIN = {
    column.name: column
    for column in (
        Column("file", "The raw file, relative to its format folder"),
        Column("row", "Line, list index or data row in that file, counted from 1", pa.int64()),
        Column("id", "SHA-256 of the row's content"),
    )
}
"""The columns that every table has after those of its format."""


def schema_of(row_format: Format, *others: str) -> pa.Schema:
    """Return the schema of the format's columns, followed by `others`, which are names of ORIGIN."""
    columns = (*row_format.columns, *(ORIGIN[name] for name in others))
    return pa.schema([(column.name, column.arrow_type) for column in columns])


def columns_of(row_format: Format, records: Sequence[Record]) -> dict[str, pa.Array]:
    """Return the records as the columns of their format."""
    cells = zip(*records, strict=True) if records else [()] * len(row_format.columns)
    return {
        column.name: pa.array(items, column.arrow_type) for column, items in zip(row_format.columns, cells, strict=True)
    }


def type_name(arrow_type: pa.DataType) -> str:
    """Return the type of a column for display."""
    if pa.types.is_list(arrow_type):
        return f"list<{type_name(arrow_type.value_type)}>"
    if pa.types.is_struct(arrow_type):
        return f"{{{', '.join(field.name for field in arrow_type)}}}"
    return "int" if pa.types.is_integer(arrow_type) else "str"
