"""Rows of raw files with their ids, and their replacement by erasure markers that leaves all other rows unchanged."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.tables.excluded_rows import is_erasure_marker
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.convert import convert
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.row_ids import row_id
from ft_pipeline.tables.reading.batches import Batch, divide
from ft_pipeline.tables.reading.containers import read_batches
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RawRow:
    """One row of a raw file, whether it can be used or not."""

    number: int
    """Line, list index or data row, from 1."""
    identity: str
    """The row's id in its table. For a row that cannot be converted, a hash of its raw text."""
    texts: frozenset[str]
    """Every string in it, and its raw text."""
    forgotten: bool = False
    """Whether the row is an erasure marker."""


def read_raw_rows(path: Path, name: str, data_format: str, sidecar: Sidecar) -> Iterator[RawRow]:
    """Yield every row of a raw file. `name` is the file's original name; its suffix distinguishes CSV and Parquet.

    Raises reason_codes.Refused if the whole file is refused.
    """
    row_format = FORMATS[data_format]
    for batch in read_batches(path, Path(name).suffix.lower()):
        here = divide(batch)
        values = here.values if here.lines is None else [parse_line(line) for line in here.lines]
        for position, value in enumerate(values):
            raw = _as_written(here, position, value)
            yield _raw_row(here.rows[position], value, raw, row_format, sidecar)


def _raw_row(number: int, value: Any, raw: str, row_format: Format, sidecar: Sidecar) -> RawRow:
    record = convert(row_format, value, sidecar)
    texts = frozenset([raw, *_strings_of(value)])
    if isinstance(record, Fault):
        forgotten = isinstance(value, dict) and is_erasure_marker(value)
        return RawRow(number, sha256(raw.encode("utf-8", "surrogateescape")).hexdigest(), texts, forgotten)
    named = dict(zip(row_format.column_names, record, strict=True))
    return RawRow(number, row_id(named), texts | frozenset(_strings_of(named)))


def _as_written(batch: Batch, at: int, value: Any) -> str:
    if batch.lines is not None:
        return batch.lines[at].strip().decode("utf-8", "replace")
    if isinstance(value, Fault):
        return value.raw
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def _strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings_of(item)


def replace_with_markers(path: Path, name: str, marks: Mapping[int, str]) -> bytes:
    """Return the file's bytes with each of these rows (by number) replaced by its marker. All other rows keep their
    bytes and their numbers. A Parquet file is rewritten."""
    suffix = Path(name).suffix.lower()
    first = next(read_batches(path, suffix))
    if first.offsets is not None:
        return _array_with_marks(path, suffix, marks)
    if first.block is not None or first.lines is not None:
        return _lines_with_marks(path.read_bytes(), marks)
    return _parquet_with_marks(path, marks) if suffix == ".parquet" else _csv_with_marks(path, marks)


def _json_mark(mark: str) -> bytes:
    return orjson.dumps({"excluded": mark})


def _lines_with_marks(content: bytes, marks: Mapping[int, str]) -> bytes:
    lines = content.split(b"\n")
    for number, mark in marks.items():
        line = lines[number - 1]
        begin = BOM if number == 1 and line.startswith(BOM) else b""
        lines[number - 1] = begin + _json_mark(mark) + (b"\r" if line.endswith(b"\r") else b"")
    return b"\n".join(lines)


def _array_with_marks(path: Path, suffix: str, marks: Mapping[int, str]) -> bytes:
    content = path.read_bytes()
    places: list[tuple[int, int, str]] = []
    for batch in read_batches(path, suffix):
        for number, element, offset in zip(batch.rows, batch.lines or [], batch.offsets or [], strict=True):
            if number in marks:
                places.append((content.index(element, offset), len(element), marks[number]))
    for begin, length, mark in sorted(places, reverse=True):
        content = content[:begin] + _json_mark(mark) + content[begin + length :]
    return content


def _csv_with_marks(path: Path, marks: Mapping[int, str]) -> bytes:
    """Replace whole lines: a CSV row always ends at the end of a line."""
    content = path.read_bytes()
    lines = list(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
    reader = csv.reader(iter(lines), strict=True)
    next(reader)
    row, begin, kept = 0, reader.line_num, lines[: reader.line_num]
    for cells in reader:
        row += bool(cells)
        own = lines[begin : reader.line_num]
        begin = reader.line_num
        mark = marks.get(row) if cells else None
        ending = own[-1][len(own[-1].rstrip("\r\n")) :]
        kept += own if mark is None else [mark + ending]
    return "".join(kept).encode("utf-8", "surrogateescape")


def _parquet_with_marks(path: Path, marks: Mapping[int, str]) -> bytes:
    table = pq.read_table(path)
    schema = pa.schema([column.with_nullable(True) for column in table.schema], table.schema.metadata)
    first = next(
        (column.name for column in schema if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)),
        None,
    )
    rows = table.to_pylist()
    for number, mark in marks.items():
        rows[number - 1] = {first: mark} if first else {}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()
