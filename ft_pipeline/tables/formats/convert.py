"""Converts the values of a batch to the columns of their format.

Instructions without context are converted as whole columns, all other rows one by one (registry.py). Both ways give
the same result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.formats.arrow_schema import columns_of, schema_of
from ft_pipeline.tables.formats.base import Record
from ft_pipeline.tables.formats.registry import convert
from ft_pipeline.tables.formats.row_ids import alpaca_ids, row_ids
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import EMPTY_CHARS

PlacedRows = dict[tuple[str, ...], list[int]]
Part = tuple[np.ndarray, pa.Table]
"""Positions in the batch, and the rows at these positions."""


@dataclass
class Converted:
    """The rows of a batch that can be used, and the faults of the others."""

    columns: pa.Table
    """The format's columns and `id`, one chunk each, in the order of the batch."""
    sources: np.ndarray
    """int64: the position of each row in the batch."""
    faults: dict[int, Fault]
    """Position in the batch → why the row cannot be used."""


def shapes_of(values: Sequence[Any]) -> PlacedRows:
    """The keys of the objects among the values → the positions of the objects with these keys."""
    shapes: PlacedRows = {}
    for position, value in enumerate(values):
        if isinstance(value, dict):
            shapes.setdefault(tuple(value), []).append(position)
    return shapes


def convert_all(data_format: str, values: Sequence[Any], shapes: PlacedRows, sidecar: Sidecar) -> Converted:
    """Convert the values of a batch; `shapes` is the result of `shapes_of(values)`."""
    parts: list[Part] = []
    if data_format == "alpaca" and not sidecar.columns:
        parts = [part for shape, places in shapes.items() if (part := _plain_alpaca(values, shape, places)) is not None]
    done = np.zeros(len(values), dtype=bool)
    for places, _ in parts:
        done[places] = True
    records: list[Record] = []
    sources: list[int] = []
    faults: dict[int, Fault] = {}
    for position in np.flatnonzero(~done).tolist():
        record = convert(data_format, values[position], sidecar)
        if isinstance(record, Fault):
            faults[position] = record
        else:
            records.append(record)
            sources.append(position)
    if records or not parts:
        parts.append((np.array(sources, dtype=np.int64), _table(data_format, records)))
    places = np.concatenate([part[0] for part in parts])
    table = pa.concat_tables([part[1] for part in parts]).combine_chunks()
    if len(parts) > 1:
        order = np.argsort(places)
        places, table = places[order], table.take(pa.array(order)).combine_chunks()
    return Converted(table, places, faults)


def _table(data_format: str, records: Sequence[Record]) -> pa.Table:
    columns = columns_of(data_format, records)
    return pa.table({**columns, "id": row_ids(data_format, records)}, schema=schema_of(data_format, "id"))


def _plain_alpaca(values: Sequence[Any], shape: tuple[str, ...], places: list[int]) -> Part | None:
    """The rows of one shape that can be used unchanged. registry.convert handles the other rows."""
    names = set(shape)
    if not {"instruction", "output"} <= names or {"system", "history"} & names:
        return None
    wanted = ("instruction", "output", "input") if "input" in names else ("instruction", "output")
    cells = list(zip(*map(itemgetter(*wanted), map(values.__getitem__, places)), strict=True))
    if len(wanted) == 3:
        cells[2] = tuple("" if extra is None else extra for extra in cells[2])
    kept = np.flatnonzero(np.logical_and.reduce([_all_texts(column) for column in cells]))
    if len(kept) < len(places):
        cells = [tuple(map(column.__getitem__, kept.tolist())) for column in cells]
    instruction, output, *more = (pa.array(column, pa.string()) for column in cells)
    extra = more[0] if more else pa.repeat(pa.scalar("", pa.string()), len(kept))
    filled = pc.and_(*(pc.not_equal(pc.utf8_trim(column, EMPTY_CHARS), "") for column in (instruction, output)))
    schema = schema_of("alpaca", "id")
    nothing = [pa.nulls(len(kept), schema.field(name).type) for name in ("system", "history")]
    ids = alpaca_ids(instruction, extra, output)
    table = pa.Table.from_arrays([instruction, extra, output, *nothing, ids], schema=schema)
    return np.array(places, dtype=np.int64)[kept][filled.to_numpy(zero_copy_only=False)], table.filter(filled)


def _all_texts(column: Sequence[Any]) -> np.ndarray:
    if set(map(type, column)) <= {str}:
        return np.ones(len(column), dtype=bool)
    return np.array([type(item) is str for item in column], dtype=bool)
