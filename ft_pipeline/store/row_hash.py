"""The hash of a table's rows, which does not depend on how the Parquet file stores them."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.parquet_files import open_parquet

BATCH_ROWS = 4096
"""Number of rows of a table that are in memory at a time."""


def sha256_of_rows(path: Path) -> str:
    """Return the hex SHA-256 of a Parquet table's rows.

    It depends on row order, column names, types and values. It does not depend on column order, compression, encoding,
    row groups or the width of offsets (`string` or `large_string`). Memory: one batch of rows at a time.
    """
    file = open_parquet(path)
    columns = {field.name: _column_hash(field.type) for field in file.schema_arrow}
    if len(columns) != len(file.schema_arrow):
        raise ValueError(f"{path.name} has duplicate column names: {file.schema_arrow.names}")
    rows = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        rows += batch.num_rows
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            columns[name].update(array)
    return sha256_of_json({"rows": rows, "columns": {name: column.result() for name, column in columns.items()}})


def _column_hash(type_: pa.DataType) -> "_ColumnHash":
    """Return a new, empty hash for a column of this type."""
    if isinstance(type_, pa.BaseExtensionType):
        return _column_hash(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return _column_hash(type_.value_type)
    if pa.types.is_struct(type_):
        return _StructHash(type_)
    if pa.types.is_map(type_):
        return _ListHash(pa.list_(pa.struct([("key", type_.key_type), ("value", type_.item_type)])))
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return _ListHash(type_)
    if any(is_text(type_) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        return _BytesHash("string")
    if any(is_binary(type_) for is_binary in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)):
        return _BytesHash("binary")
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return _NumberHash(type_)
    return _TextFormHash(str(type_))


class _ColumnHash:
    """The hash of one column's values, which are added batch after batch. It does not depend on batch boundaries."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name
        self.validity = hashlib.sha256()
        self.values = hashlib.sha256()

    def update(self, array: pa.Array) -> None:
        """Add the column's values in one batch."""
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        self.validity.update(_bytes_of(array.is_valid().cast(pa.uint8())))
        self.update_values(array)

    def update_values(self, array: pa.Array) -> None:
        """Add the values of an array without dictionary or extension type. Its nulls are already hashed."""
        raise NotImplementedError

    def result(self) -> Any:
        """Return the name of the type and the hashes, as JSON."""
        return [self.type_name, self.validity.hexdigest(), self.values.hexdigest()]


class _NumberHash(_ColumnHash):
    def __init__(self, type_: pa.DataType) -> None:
        super().__init__(str(type_))
        self.hashed_type = pa.uint8() if pa.types.is_boolean(type_) else type_

    def update_values(self, array: pa.Array) -> None:
        filled = pc.fill_null(array, pa.scalar(0).cast(array.type))
        if pa.types.is_floating(filled.type):  # a NaN can have different bits; all are hashed as the same value
            filled = pc.if_else(pc.is_nan(filled), pa.scalar(float("nan"), filled.type), filled)
        self.values.update(_bytes_of(filled.cast(self.hashed_type)))


class _BytesHash(_ColumnHash):
    def __init__(self, type_name: str) -> None:
        super().__init__(type_name)
        self.lengths = hashlib.sha256()

    def update_values(self, array: pa.Array) -> None:
        array = pc.fill_null(array.cast(pa.large_binary()), b"")
        self.lengths.update(_bytes_of(pc.binary_length(array).cast(pa.int64())))
        _, offsets_buffer, data = array.buffers()
        if data is None or len(array) == 0:
            return
        offsets = memoryview(offsets_buffer).cast("q")
        self.values.update(memoryview(data)[offsets[array.offset] : offsets[array.offset + len(array)]])

    def result(self) -> Any:
        return [*super().result(), self.lengths.hexdigest()]


class _TextFormHash(_BytesHash):
    """Rare types (dates, decimals), hashed as text."""

    def update_values(self, array: pa.Array) -> None:
        super().update_values(array.cast(pa.string()))


class _ListHash(_ColumnHash):
    def __init__(self, type_: pa.DataType) -> None:
        super().__init__("list")
        self.items = _column_hash(type_.value_type)

    def update_values(self, array: pa.Array) -> None:
        if pa.types.is_map(array.type):
            array = array.cast(pa.list_(pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])))
        self.values.update(_bytes_of(pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64())))
        self.items.update(array.flatten())

    def result(self) -> Any:
        return [*super().result(), self.items.result()]


class _StructHash(_ColumnHash):
    def __init__(self, type_: pa.DataType) -> None:
        super().__init__("struct")
        self.fields = {field.name: _column_hash(field.type) for field in type_}

    def update_values(self, array: pa.Array) -> None:
        for field, child in zip(array.type, array.flatten(), strict=True):
            self.fields[field.name].update(child)

    def result(self) -> Any:
        return [*super().result(), {name: column.result() for name, column in self.fields.items()}]


def _bytes_of(array: pa.Array) -> memoryview:
    """Return the values of a fixed-width array without nulls, as bytes."""
    width = array.type.bit_width // 8
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        return memoryview(b"")
    return memoryview(data)[array.offset * width : (array.offset + len(array)) * width]
