"""A batch of raw rows into accepted records, faults and keys: the one path that validation and training share."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa

from ft_pipeline.tables import pii
from ft_pipeline.tables.codes import Fault
from ft_pipeline.tables.columns import TYPES, arrow_schema, columns_of
from ft_pipeline.tables.hashing import row_id
from ft_pipeline.tables.keys import Keys, hash_texts, keys_of_columns
from ft_pipeline.tables.parsing import parse_block, parse_line
from ft_pipeline.tables.reader import Batch, divide
from ft_pipeline.tables.rows import COLUMNS, REQUIRED, Record, convert
from ft_pipeline.tables.schemas import find_faults, flatten
from ft_pipeline.tables.sidecar import Sidecar, rename
from ft_pipeline.tables.text import normalise
from ft_pipeline.tables.unread import unread_columns, unread_turn_keys

RAW_CHARS = 2000
TEXT = pd.StringDtype(na_value=np.nan)
ASIDE = pa.schema([("row", pa.int64()), ("code", pa.string()), ("message", pa.string()), ("raw", pa.string())])


@dataclass
class Chunk:
    """What became of one batch."""

    read: int
    table: pa.Table
    """Accepted rows: the format's columns, `row`, `id`."""
    keys: Keys
    aside: pa.Table
    """Faulty rows, as ASIDE."""
    reasons: dict[str, list[int]]
    """Code → faulty rows, ascending."""
    pairs: np.ndarray
    """Preferences: uint64 of (prompt, chosen, rejected) and of its reverse, normalised; shape (rows, 2)."""
    pii: dict[str, list[int]]
    unknown: set[str] = field(default_factory=set)
    """Columns and keys of turns that nothing reads, as a person may read them."""
    objects: int = 0
    known: int = 0
    """Rows that are objects, and rows that have the format's required keys."""
    broken: tuple[int, str] | None = None
    """The first row that is no JSON, and why (nesting that is too deep is JSON)."""


def process(batch: Batch, data_format: str, sidecar: Sidecar, excluded: Container[str] = frozenset()) -> Chunk:
    """Parse, convert and validate a batch. Nothing is dropped: read = rows of the table + set aside."""
    block, batch = batch.block, divide(batch)
    values = _parse(block, batch)
    records: list[Record] = []
    sources: list[int] = []
    faults: dict[int, Fault] = {}
    for at, value in enumerate(values):
        record = convert(data_format, value, sidecar)
        if isinstance(record, Fault):
            faults[at] = record
        else:
            records.append(record)
            sources.append(at)
    columns = columns_of(data_format, records)
    frame = _frame(data_format, records, columns)
    for position, fault in find_faults(data_format, frame, sidecar.allow).items():
        faults[sources[position]] = fault
    ids = _ids(data_format, records)
    for position, identity in enumerate(ids):
        if identity in excluded:
            faults[sources[position]] = Fault("excluded", "forgotten on request")
    keep = [position for position, at in enumerate(sources) if at not in faults]
    if len(keep) < len(records):
        records, ids = [records[position] for position in keep], [ids[position] for position in keep]
        sources = [sources[position] for position in keep]
        columns, frame = (
            {name: column.take(pa.array(keep, pa.int64())) for name, column in columns.items()},
            frame.iloc[keep],
        )
    rows = np.array([batch.rows[at] for at in sources], dtype=np.int64)
    own = [*columns.values(), pa.array(rows), pa.array(ids, pa.string())]
    chunk = Chunk(
        read=len(values),
        table=pa.Table.from_arrays(own, schema=arrow_schema(data_format)),
        keys=keys_of_columns(data_format, columns),
        aside=_aside(batch, faults),
        reasons=_reasons(batch, faults),
        pairs=_pairs(records) if data_format == "preferences" else np.empty((0, 2), dtype=np.uint64),
        pii=_pii(frame, rows),
    )
    _describe(chunk, values, data_format, sidecar)
    broken = ((batch.rows[at], fault.message) for at, fault in sorted(faults.items()) if fault.code == "invalid_json")
    chunk.broken = next((item for item in broken if not item[1].startswith("nested")), None)
    return chunk


def _parse(block: bytes | None, batch: Batch) -> list[Any]:
    if batch.lines is None:
        return batch.values
    return [parse_line(line) for line in batch.lines] if block is None else parse_block(block, batch.lines)


def _aside(batch: Batch, faults: dict[int, Fault]) -> pa.Table:
    entries = [
        {"row": batch.rows[at], "code": fault.code, "message": fault.message, "raw": _raw(batch, at, fault)}
        for at, fault in sorted(faults.items())
    ]
    return pa.Table.from_pylist(entries, schema=ASIDE)


def _reasons(batch: Batch, faults: dict[int, Fault]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for at, fault in sorted(faults.items()):
        found.setdefault(fault.code, []).append(batch.rows[at])
    return found


def _frame(data_format: str, records: list[Record], columns: dict[str, pa.Array]) -> pd.DataFrame:
    """The records as pandera wants them; texts share their memory with the Arrow columns."""
    series = {}
    for at, name in enumerate(COLUMNS[data_format]):
        if name in TYPES:
            cells = np.empty(len(records), dtype=object)
            cells[:] = [record[at] for record in records]
            series[name] = pd.Series(cells, dtype=object)
        else:
            series[name] = pd.Series(TEXT.__from_arrow__(columns[name]))  # type: ignore[attr-defined]
    return pd.DataFrame(series)


def _ids(data_format: str, records: list[Record]) -> list[str]:
    names = COLUMNS[data_format]
    return [row_id(dict(zip(names, record))) for record in records]  # noqa: B905 (a third of the time)


def _pairs(records: list[Record]) -> np.ndarray:
    sides = [
        (
            "\x1f".join(normalise(turn["content"]) for turn in prompt),
            normalise(chosen[0]["content"]),
            normalise(rejected[0]["content"]),
        )
        for prompt, chosen, rejected in records
    ]
    ways = [[f"{p}\x1e{a}\x1e{b}" for p, a, b in sides], [f"{p}\x1e{b}\x1e{a}" for p, a, b in sides]]
    return np.stack([hash_texts(texts) for texts in ways], axis=1)


def _pii(frame: pd.DataFrame, rows: np.ndarray) -> dict[str, list[int]]:
    found: dict[str, set[int]] = {}
    for name in frame.columns:
        texts, owners = flatten(frame[name])
        for kind, positions in pii.locate(texts, owners).items():
            found.setdefault(kind, set()).update(rows[positions].tolist())
    return {kind: sorted(numbers) for kind, numbers in found.items()}


def _raw(batch: Batch, at: int, fault: Fault) -> str:
    """The row as it stands in the file, cut. A forgotten row leaves nothing behind."""
    if fault.code == "excluded":
        return ""
    if batch.lines is not None:
        return batch.lines[at][: 4 * RAW_CHARS].decode("utf-8", errors="replace")[:RAW_CHARS]
    value = batch.values[at]
    return value.raw[:RAW_CHARS] if isinstance(value, Fault) else raw_of(value)


def raw_of(value: Any) -> str:
    """A value that came without text (a CSV row, a record) as JSON, cut."""
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()[:RAW_CHARS]


def _describe(chunk: Chunk, values: list[Any], data_format: str, sidecar: Sidecar) -> None:
    """Count what tells the file's format, and name what is dropped."""
    shapes: dict[tuple[str, ...], int] = {}
    for value in values:
        if isinstance(value, dict):
            shape = tuple(value)
            shapes[shape] = shapes.get(shape, 0) + 1
    for shape, count in shapes.items():
        names = set(rename(dict.fromkeys(shape), sidecar)) if sidecar.columns else set(shape)
        chunk.objects += count
        if any(required <= names for required in REQUIRED[data_format]):
            chunk.known += count
            chunk.unknown |= unread_columns(data_format, shape, sidecar)
    chunk.unknown |= unread_turn_keys(data_format, values, sidecar)
    # A row that is JSON but faulty in its keys or characters is an object still.
    formal = sum(len(chunk.reasons.get(code, ())) for code in ("duplicate_key", "lone_surrogate"))
    chunk.objects += formal
    chunk.known += formal
