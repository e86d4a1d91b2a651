"""Reads CSV and Parquet."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.settings.raw_formats import TARGET_COLUMNS
from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.reading.batches import BLOCK_BYTES, HEAD_BYTES, Batch
from ft_pipeline.tables.reading.describe import BadNumber, shorten
from ft_pipeline.tables.reason_codes import Fault, Refused, damaged

MAX_ROWS = 4096
"""Maximum number of rows in a batch. It has fewer if they are larger than BLOCK_BYTES."""
MAX_CELL_CHARS = 64 << 20
READ_BYTES = 1 << 20
"""Size of the buffer through which each column is read. Without it, a whole row group is in memory."""
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_QUOTED = re.compile('"[^"]*"?')


def csv_batches(path: Path) -> Iterator[Batch]:
    """Yield rows as {column: cell}. The first line names the columns and is not a row; it shows what separates them.

    Raises Refused if a quote is never closed.
    """
    csv.field_size_limit(MAX_CELL_CHARS)
    # Bytes that are not UTF-8 become lone surrogates and quarantine only their row.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        separator = separator_of(file)
        reader = csv.reader(file, strict=True, delimiter=separator)
        header = _next_cells(reader)
        if header is None:
            raise Refused("empty_file", "no rows")
        names = [_printable(name).strip() for name in header]
        twice = _twice(names)
        row, batch, size = 0, Batch([]), 0
        while (cells := _next_cells(reader)) is not None:
            if not cells:
                continue
            row += 1
            batch.rows.append(row)
            batch.values.append(_csv_row(names, twice, cells, separator))
            size += sum(map(len, cells))
            if len(batch.rows) >= MAX_ROWS or size > BLOCK_BYTES:
                yield batch
                batch, size = Batch([]), 0
        if batch.rows:
            yield batch


def separator_of(file: TextIO) -> str:
    """Return what separates the columns of a CSV file that is open at its start, and stays so.

    Of what the header has outside quotes, it is the one that gives it most columns with names that a format knows. Then
    it is one that stands without a space behind it, as in no sentence; then the comma, then what is more frequent. No
    row decides: an erasure replaces rows.
    """
    head = file.read(HEAD_BYTES).removeprefix("\ufeff")
    file.seek(0)
    header = re.split(r"[\r\n]", _QUOTED.sub("", head), maxsplit=1)[0]

    def rank(separator: str) -> tuple[int, bool, bool, int]:
        names = next(csv.reader(io.StringIO(head, newline=""), delimiter=separator), [])
        known = len(TARGET_COLUMNS & {name.strip() for name in names})
        return known, re.search(rf"{separator}\S", header) is not None, separator == ",", header.count(separator)

    return max((separator for separator in _SEPARATORS if separator in header), key=rank, default=",")


def _next_cells(reader: Any) -> list[str] | None:
    try:
        return next(reader)
    except StopIteration:
        return None
    except csv.Error as error:
        raise Refused(
            "invalid_json",
            f"the CSV cannot be read on from line {reader.line_num} ({error}); a quote is not closed or not doubled",
        ) from None


def _csv_row(names: list[str], twice: list[str], cells: list[str], separator: str) -> Any:
    if len(cells) > len(names):
        return Fault(
            "invalid_json",
            f"the row has {len(cells)} cells and the header {len(names)}; is a {_SEPARATORS[separator]} not quoted?",
            _raw(cells, separator),
        )
    row = dict(zip(names, cells, strict=False))
    if not twice and all(cell.isascii() or not _has_bad_bytes(cell) for cell in cells):
        return row
    raw = _raw(cells, separator)
    faults = {
        name: Fault("duplicate_key", f"the header names the column {shorten(name)} twice; rename one", raw)
        for name in twice
    }
    for name, cell in zip(names, cells, strict=False):
        if _has_bad_bytes(cell):
            faults[name] = Fault("not_utf8", "a cell holds bytes that are not UTF-8; save the file as UTF-8", raw)
    return damaged(row, faults)


def _raw(cells: list[str], separator: str) -> str:
    return _printable(separator.join(cells)[:8000])


def _printable(text: str) -> str:
    """Return the text with a replacement character for each byte that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _has_bad_bytes(cell: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in cell)


def parquet_batches(path: Path) -> Iterator[Batch]:
    """Yield rows as {column: value}. Raises Refused (unknown_format) if the file is not Parquet or is cut off."""
    try:
        with open_parquet(path, buffer_size=READ_BYTES) as file:
            if not file.metadata.num_rows:
                raise Refused("empty_file", "no rows")
            row, message = 0, "the column {} stands twice; rename one"
            twice = {
                name: Fault("duplicate_key", message.format(shorten(name))) for name in _twice(file.schema_arrow.names)
            }
            for record_batch in file.iter_batches(batch_size=_rows_per_batch(file.metadata)):
                for part in _parts(record_batch):
                    values = _rows_of(part, twice)
                    yield Batch(list(range(row + 1, row + 1 + len(values))), values=values)
                    row += len(values)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # of a column's name
        kind = type(error).__name__
        raise Refused("unknown_format", f"the file cannot be read as Parquet ({kind}); write it again") from None


def _rows_per_batch(metadata: pq.FileMetaData) -> int:
    """Return the number of rows that are at most BLOCK_BYTES, by the average of the row group with the largest rows."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    row_bytes = max(group.total_byte_size / group.num_rows for group in groups if group.num_rows)
    return max(1, min(MAX_ROWS, int(BLOCK_BYTES / max(row_bytes, 1))))


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield slices of a batch whose rows are larger than the average: encoded, equal values take up little space."""
    rows = max(1, int(batch.num_rows * BLOCK_BYTES / max(batch.nbytes, BLOCK_BYTES)))
    for begin in range(0, batch.num_rows, rows):
        yield batch.slice(begin, rows)


def _rows_of(batch: pa.RecordBatch, twice: Mapping[str, Fault]) -> list[Any]:
    """Return the rows. twice: the faults of the columns that stand twice, which are not read."""
    once = batch.select([number for number, name in enumerate(batch.schema.names) if name not in twice])
    try:
        return [damaged(row, twice) for row in once.to_pylist()]
    except (UnicodeDecodeError, ValueError, OverflowError):
        return [_one_row(once, position, twice) for position in range(once.num_rows)]


def _one_row(batch: pa.RecordBatch, at: int, twice: Mapping[str, Fault]) -> Any:
    row: dict[str, Any] = {}
    faults = dict(twice)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[at].as_py()
        except UnicodeDecodeError:
            faults[name] = Fault("not_utf8", f"{shorten(name)} holds bytes that are not UTF-8; save it as UTF-8")
        except (ValueError, OverflowError):
            row[name] = BadNumber("outside what its type can hold")
    return damaged(row, faults)


def _twice(names: list[str]) -> list[str]:
    """Return the names that are there more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
