"""The Arrow columns of each format's table."""

from collections.abc import Sequence

import pyarrow as pa

from ft_pipeline.tables.formats.base import Record
from ft_pipeline.tables.formats.registry import COLUMNS

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("reasoning_content", pa.string())]))
"""Turns. reasoning_content is null except in assistant turns that have it."""
TYPES: dict[str, pa.DataType] = {
    "messages": MESSAGES,
    "prompt_messages": MESSAGES,
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "history": pa.list_(pa.list_(pa.string())),
}
"""The types of columns that are not texts. All other columns are texts."""
ORIGIN: dict[str, pa.DataType] = {"file": pa.string(), "row": pa.int64(), "id": pa.string()}


def schema_of(data_format: str, *others: str) -> pa.Schema:
    """Schema of the format's columns, followed by `others`, which are names of ORIGIN."""
    own = [(name, TYPES.get(name, pa.string())) for name in COLUMNS[data_format]]
    return pa.schema([*own, *((name, ORIGIN[name]) for name in others)])


def columns_of(data_format: str, records: Sequence[Record]) -> dict[str, pa.Array]:
    """The records as the columns of their format."""
    columns = zip(*records, strict=True) if records else [()] * len(COLUMNS[data_format])
    return {
        name: pa.array(items, TYPES.get(name, pa.string()))
        for name, items in zip(COLUMNS[data_format], columns, strict=True)
    }
