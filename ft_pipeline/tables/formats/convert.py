"""Converts parsed values to rows of their format, one by one or as the columns of a batch.

The checks test the content of the strings (control tokens, placeholders, refusals) afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ft_pipeline.tables.excluded_rows import is_erasure_marker
from ft_pipeline.tables.formats.arrow_schema import columns_of, schema_of
from ft_pipeline.tables.formats.base import Format, PlacedTable, Record, read_tags
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.row_ids import row_ids
from ft_pipeline.tables.reading.describe import describe_keys, describe_value
from ft_pipeline.tables.reading.sidecar import PLAIN, Sidecar, rename
from ft_pipeline.tables.reason_codes import DamagedRow, Fault

FORGOTTEN = Fault("excluded", "forgotten on request")
"""The fault of an erased row."""
PlacedRows = dict[tuple[str, ...], list[int]]
"""Keys of a row → positions in the batch of the rows with these keys."""


@dataclass
class Converted:
    """The rows of a batch that can be used, and the faults of the others."""

    columns: pa.Table
    """The format's columns and `id`, one chunk each, in the order of the batch."""
    sources: np.ndarray
    """int64: the position of each row in the batch."""
    faults: dict[int, Fault]
    """Position in the batch → why the row cannot be used."""


def usable(row_format: Format, value: Any, sidecar: Sidecar) -> Any:
    """Return a parsed value. A row whose faults are only in columns that the format does not read has null there."""
    if not isinstance(value, DamagedRow):
        return value
    columns = rename({name: name for name in value.row}, sidecar)
    return value.restricted_to({theirs for ours, theirs in columns.items() if ours in row_format.keys})


def convert(row_format: Format, value: Any, sidecar: Sidecar = PLAIN) -> Record | Fault:
    """Return the record of a row (its values in the order of the format's columns), or the fault of the row."""
    if isinstance(value, Fault):
        return value
    if not isinstance(value, dict):
        return Fault("wrong_type", f"the row is {describe_value(value)}; a row must be an object with named values")
    if is_erasure_marker(value):
        return FORGOTTEN
    if sidecar.columns:
        value = rename(value, sidecar)
    if row_format.main_keys.isdisjoint(value) and (fault := _wrong_format(value, row_format)):
        return fault
    record = row_format.convert(value, sidecar)
    return record if isinstance(record, Fault) else _completed(row_format, record, value)


def _completed(row_format: Format, record: Record, value: dict[str, Any]) -> Record | Fault:
    """Return the record with the columns that `Format.convert` left out. The last one is `tags`."""
    left_out = len(row_format.columns) - len(record)
    if not left_out:
        return record
    tags = read_tags(value)
    return tags if isinstance(tags, Fault) else (*record, *[None] * (left_out - 1), tags)


def _wrong_format(value: dict[str, Any], row_format: Format) -> Fault | None:
    """Return the fault of a row with the keys of another format, or None."""
    for other_format in FORMATS.values():
        if other_format is not row_format and other_format.signs & value.keys():
            keys, name = describe_keys(value), other_format.name
            return Fault(
                "wrong_format",
                f"a row of the {name} format (it has {keys}), not of {row_format.name}; move it to data/raw/{name}",
            )
    return None


def shapes_of(values: Sequence[Any]) -> PlacedRows:
    """Return the positions of the objects among the values, by the keys of the object."""
    shapes: PlacedRows = {}
    for position, value in enumerate(values):
        if isinstance(value, dict):
            shapes.setdefault(tuple(value), []).append(position)
    return shapes


def convert_all(row_format: Format, values: Sequence[Any], shapes: PlacedRows, sidecar: Sidecar) -> Converted:
    """Convert the values of a batch; `shapes` is the result of `shapes_of(values)`."""
    parts: list[PlacedTable] = []
    if (fast := row_format.convert_columns) is not None and not sidecar.columns:
        parts = [part for shape, places in shapes.items() if (part := fast(values, shape, places)) is not None]
    is_converted = np.zeros(len(values), dtype=bool)
    for places, _ in parts:
        is_converted[places] = True
    records: list[Record] = []
    sources: list[int] = []
    faults: dict[int, Fault] = {}
    for position in np.flatnonzero(~is_converted).tolist():
        record = convert(row_format, values[position], sidecar)
        if isinstance(record, Fault):
            faults[position] = record
        else:
            records.append(record)
            sources.append(position)
    if records or not parts:
        parts.append((np.array(sources, dtype=np.int64), _table(row_format, records)))
    places = np.concatenate([part[0] for part in parts])
    table = pa.concat_tables([part[1] for part in parts]).combine_chunks()
    if len(parts) > 1:
        order = np.argsort(places)
        places, table = places[order], table.take(pa.array(order)).combine_chunks()
    return Converted(table, places, faults)


def _table(row_format: Format, records: Sequence[Record]) -> pa.Table:
    columns = columns_of(row_format, records)
    return pa.table({**columns, "id": row_ids(row_format, records)}, schema=schema_of(row_format, "id"))
