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
from ft_pipeline.tables.formats.turns import strings_in, strings_in_json
from ft_pipeline.tables.reading.batches import BOM, JSON_SPACE, Batch, divide
from ft_pipeline.tables.reading.containers import read_batches
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault


@dataclass(frozen=True)
class RawRow:
    """One row of a raw file, whether it can be used or not."""

    number: int
    """Line, list index or data row, from 1."""
    identity: str
    """The row's id in its table. For a row that cannot be converted, a hash of its raw text."""
    texts: frozenset[str]
    """Every string in the row, before and after its conversion, and its raw text."""
    is_marker: bool = False
    """Whether the row is an erasure marker."""


def read_raw_rows(path: Path, name: str, data_format: str, sidecar: Sidecar) -> Iterator[RawRow]:
    """Yield every row of a raw file. `name` is the file's original name; its suffix distinguishes CSV and Parquet.

    Raises reason_codes.Refused if the whole file is refused.
    """
    row_format = FORMATS[data_format]
    for undivided in read_batches(path, Path(name).suffix.lower()):
        batch = divide(undivided)
        values = batch.values if batch.lines is None else [parse_line(line) for line in batch.lines]
        for position, value in enumerate(values):
            raw_text = _raw_text(batch, position, value)
            yield _raw_row(batch.rows[position], value, raw_text, row_format, sidecar)


def _raw_row(number: int, value: Any, raw_text: str, row_format: Format, sidecar: Sidecar) -> RawRow:
    record = convert(row_format, value, sidecar)
    texts = frozenset([raw_text, *_strings_of(value)])
    if isinstance(record, Fault):
        identity = sha256(raw_text.encode("utf-8", "surrogateescape")).hexdigest()
        return RawRow(number, identity, texts, isinstance(value, dict) and is_erasure_marker(value))
    columns = dict(zip(row_format.column_names, record, strict=True))
    return RawRow(number, row_id(columns), texts | frozenset(_strings_of(columns)))


def _raw_text(batch: Batch, position: int, value: Any) -> str:
    """Return the text of a row as it is in the file, or as JSON if the file is CSV or Parquet."""
    if batch.lines is not None:
        return batch.lines[position].strip().decode("utf-8", "replace")
    if isinstance(value, Fault):
        return value.raw
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def _strings_of(value: Any) -> Iterator[str]:
    """Yield every string in a value, except keys, and every string in the strings that are objects in JSON, such as the
    arguments of calls."""
    for text in strings_in(value):
        yield text
        if text.startswith(("{", "[")):
            yield from _strings_of(strings_in_json(text))


def replace_with_markers(path: Path, name: str, markers: Mapping[int, str]) -> bytes:
    """Return the file's bytes with each of these rows (by number) replaced by its marker. All other rows keep their
    bytes and their numbers. A Parquet file is rewritten."""
    suffix = Path(name).suffix.lower()
    first = next(read_batches(path, suffix))
    if first.offsets is not None:
        return _replace_array_elements(path, suffix, markers)
    if first.block is not None or first.lines is not None:
        return _replace_lines(path.read_bytes(), markers)
    return _replace_parquet_rows(path, markers) if suffix == ".parquet" else _replace_csv_rows(path, markers)


def _json_marker(marker: str) -> bytes:
    return orjson.dumps({"excluded": marker})


def _replace_lines(content: bytes, markers: Mapping[int, str]) -> bytes:
    lines = content.split(b"\n")
    for number, marker in markers.items():
        line = lines[number - 1]
        bom = BOM if number == 1 and line.startswith(BOM) else b""
        lines[number - 1] = bom + _json_marker(marker) + (b"\r" if line.endswith(b"\r") else b"")
    return b"\n".join(lines)


def _replace_array_elements(path: Path, suffix: str, markers: Mapping[int, str]) -> bytes:
    content, pieces, copied = path.read_bytes(), [], 0
    for batch in read_batches(path, suffix):
        for number, start, end in zip(batch.rows, batch.offsets or [], batch.ends or [], strict=True):
            if number in markers:
                element = content[start:end]
                start, end = end - len(element.lstrip(JSON_SPACE)), start + len(element.rstrip(JSON_SPACE))
                pieces += [content[copied:start], _json_marker(markers[number])]
                copied = end
    return b"".join([*pieces, content[copied:]])


def _replace_csv_rows(path: Path, markers: Mapping[int, str]) -> bytes:
    """Replace whole lines: a CSV row always ends at the end of a line."""
    content = path.read_bytes()
    lines = list(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
    reader = csv.reader(iter(lines), strict=True)
    next(reader)
    number, start, output = 0, reader.line_num, lines[: reader.line_num]
    for cells in reader:
        number += bool(cells)  # a blank line is not a row
        row_lines = lines[start : reader.line_num]
        start = reader.line_num
        marker = markers.get(number) if cells else None
        line_ending = row_lines[-1][len(row_lines[-1].rstrip("\r\n")) :]
        output += row_lines if marker is None else [marker + line_ending]
    return "".join(output).encode("utf-8", "surrogateescape")


def _replace_parquet_rows(path: Path, markers: Mapping[int, str]) -> bytes:
    """Put each marker into the first column of strings. All other cells of the row become null."""
    table = pq.read_table(path)
    schema = pa.schema([column.with_nullable(True) for column in table.schema], table.schema.metadata)
    text_columns = [
        column.name for column in schema if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ]
    rows = table.to_pylist()
    for number, marker in markers.items():
        rows[number - 1] = {text_columns[0]: marker} if text_columns else {}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()
