"""Turn a batch of raw rows into accepted rows, faults and keys. `ft validate` and the pipeline share this code."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ft_pipeline.tables.checks import pii, placeholders
from ft_pipeline.tables.checks.row_rules import Rows, find_faults
from ft_pipeline.tables.dedup.keys import Keys, hash_texts, keys_of_views
from ft_pipeline.tables.excluded_rows import is_erasure_marker
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.comparison_texts import ComparisonTexts
from ft_pipeline.tables.formats.convert import FORGOTTEN, PlacedRows, convert_all, shapes_of, usable
from ft_pipeline.tables.formats.ignored_columns import unread_columns, unread_turn_keys
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.masking import Masker
from ft_pipeline.tables.raw_text import expand_documents, raw_of
from ft_pipeline.tables.reading.batches import Batch, divide
from ft_pipeline.tables.reading.describe import describe_value, shorten
from ft_pipeline.tables.reading.json_parser import parse_block, parse_line
from ft_pipeline.tables.reading.sidecar import Sidecar, rename
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

SIDECAR_HINT = "; or allow it: `allow: [{code}]` in a sidecar"
"""The end of the messages of row rules, which a sidecar can switch off."""
ASIDE = pa.schema([("row", pa.int64()), ("code", pa.string()), ("message", pa.string()), ("raw", pa.string())])
"""Columns of the faulty rows."""


@dataclass
class BatchResult:
    """Result of processing one batch of raw rows."""

    read: int
    table: pa.Table | None
    """Accepted rows: the format's columns, `row`, `id`. None after they are written to a file."""
    rows: np.ndarray
    """int64: the row numbers of the accepted rows."""
    keys: Keys
    aside: pa.Table
    """Faulty rows, in the schema ASIDE."""
    reasons: dict[str, list[int]]
    """Code → numbers of the faulty rows, ascending."""
    pairs: np.ndarray
    """Preferences and feedback: uint64 hashes of (prompt, chosen, rejected) and of its reverse, normalized (see
    Format.pair_texts); shape (rows, 2)."""
    hints: dict[str, list[int]]
    """Warning code → numbers of the rows that it concerns."""
    unknown: set[str] = field(default_factory=set)
    """Columns and turn keys that are not used, quoted for display."""
    columns: list[str] = field(default_factory=list)
    """The columns of the rows, as the file names them."""
    objects: int = 0
    """Number of rows that are objects."""
    known: int = 0
    """Number of rows that have the format's required keys."""
    masked: Counter[str] = field(default_factory=Counter)
    """Kind of personal data → how often it was masked."""
    named: int = 0
    """Number of rows that are in a named group."""
    broken: tuple[int, str] | None = None
    """Number of the first row that is not JSON, and why. (Nesting that is too deep is still JSON.)"""


def process_batch(
    batch: Batch,
    data_format: str,
    sidecar: Sidecar,
    excluded: Container[str] = frozenset(),
    expand: Callable[[Any, Sidecar], Iterable[Any]] | None = None,
    mask: Sequence[str] = (),
) -> BatchResult:
    """Parse, convert and validate a batch. No row is lost: read = rows of the table + rows set aside.

    expand: returns the raw rows of a document (Format.expand); None: each is one. mask: what is masked (masking.py).
    """
    row_format = FORMATS[data_format]
    block, batch = batch.block, divide(batch)
    values = _parse(block, batch)
    if expand is not None:
        batch = expand_documents(expand, batch, values, sidecar)
        values = batch.values
    else:
        values = [usable(row_format, value, sidecar) for value in values]
        batch = batch if batch.lines is not None else replace(batch, values=values)
    names, faults_of_names = _read_names(values, sidecar.group) if row_format.may_have_names else ([], {})
    counts: Counter[str] = Counter()
    if mask:
        batch, counts = mask_rows(batch, values, mask)
        values = batch.values
    shapes = shapes_of(values)
    converted = convert_all(row_format, values, shapes, sidecar)
    table, sources, faults = converted.columns, converted.sources, faults_of_names | converted.faults
    own = _own(table, row_format)
    views = row_format.comparison_texts(own)
    looked_at = Rows.of(row_format, own, views)
    faults |= _broken_rules(looked_at, sources, sidecar)
    faults |= _forgotten(table, sources, excluded)
    keep = np.isin(sources, list(faults), invert=True)
    if not keep.all():
        mask = pa.array(keep)
        table, views = table.filter(mask).combine_chunks(), views.filter(mask)
    numbers = np.array(batch.rows, dtype=np.int64)[sources]
    rows = numbers[keep]
    names = [names[position] for position in sources[keep].tolist()] if any(names) else []
    result = BatchResult(
        read=len(values),
        table=table.add_column(table.num_columns - 1, "row", pa.array(rows)),
        rows=rows,
        keys=_keys(row_format, table, views, names),
        aside=_aside(batch, faults),
        reasons=_reasons(batch, faults),
        pairs=_pairs(row_format, table),
        masked=counts,
        named=len(names) - names.count(None),
        hints=_locate(looked_at, numbers, keep),
    )
    _describe(result, values, shapes, row_format, sidecar)
    if expand is not None:  # most documents have no keys of rows, and each call counts
        unread = ("invalid_json", "not_utf8", "wrong_type", "wrong_format")
        result.known = result.objects = len(values) - sum(len(result.reasons.get(code, ())) for code in unread)
    broken = (
        (batch.rows[position], fault.message)
        for position, fault in sorted(faults.items())
        if fault.code == "invalid_json"
    )
    result.broken = next((entry for entry in broken if not entry[1].startswith("nested")), None)
    return result


def mask_rows(batch: Batch, values: Sequence[Any], mask: Sequence[str]) -> tuple[Batch, Counter[str]]:
    """Return the rows with what is masked in them, and how much of each kind. Their raw text is masked, too."""
    masker = Masker(mask)
    masked = [
        masker.mask(replace(value, raw=raw_of(batch, position, value)) if isinstance(value, Fault) else value)
        for position, value in enumerate(values)
    ]
    return Batch(batch.rows, values=masked), masker.counts


def _keys(row_format: Format, table: pa.Table, views: ComparisonTexts, names: Sequence[str | None]) -> Keys:
    keys, column = keys_of_views(views), row_format.group_column
    if column is not None:
        return keys.grouped_by(table[column].combine_chunks(), column)
    return keys.grouped_by(pa.array(names, pa.string()), "group") if names else keys


def _own(table: pa.Table, row_format: Format) -> dict[str, pa.Array]:
    """Return the columns of the format, without `id`."""
    return {name: table[name].combine_chunks() for name in row_format.column_names}


def _broken_rules(rows: Rows, sources: np.ndarray, sidecar: Sidecar) -> dict[int, Fault]:
    """Return the faults of the rows that break a rule, by position in the batch."""
    return {
        int(sources[position]): replace(fault, message=fault.message + SIDECAR_HINT.format(code=fault.code))
        for position, fault in find_faults(rows, sidecar.allow).items()
    }


def _forgotten(table: pa.Table, sources: np.ndarray, excluded: Container[str]) -> dict[int, Fault]:
    if not excluded:
        return {}
    return {
        position: FORGOTTEN
        for position, identity in zip(sources.tolist(), table["id"].to_pylist(), strict=True)
        if identity in excluded
    }


def _parse(block: bytes | None, batch: Batch) -> list[Any]:
    if batch.lines is None:
        return batch.values
    return [parse_line(line) for line in batch.lines] if block is None else parse_block(block, batch.lines)


def _aside(batch: Batch, faults: dict[int, Fault]) -> pa.Table:
    entries = [
        {
            "row": batch.rows[position],
            "code": fault.code,
            "message": fault.message,
            "raw": raw_of(batch, position, fault),
        }
        for position, fault in sorted(faults.items())
    ]
    return pa.Table.from_pylist(entries, schema=ASIDE)


def _reasons(batch: Batch, faults: dict[int, Fault]) -> dict[str, list[int]]:
    reasons: dict[str, list[int]] = {}
    for position, fault in sorted(faults.items()):
        reasons.setdefault(fault.code, []).append(batch.rows[position])
    return reasons


def _pairs(row_format: Format, table: pa.Table) -> np.ndarray:
    """Return BatchResult.pairs."""
    if row_format.pair_texts is None:
        return np.empty((0, 2), dtype=np.uint64)
    texts_of_pairs = row_format.pair_texts(table)
    directions = [
        [f"{prompt}\x1e{chosen}\x1e{rejected}" for prompt, chosen, rejected in texts_of_pairs],
        [f"{prompt}\x1e{rejected}\x1e{chosen}" for prompt, chosen, rejected in texts_of_pairs],
    ]
    return np.stack([hash_texts(direction) for direction in directions], axis=1)


def _locate(looked_at: Rows, numbers: np.ndarray, keep: np.ndarray) -> dict[str, list[int]]:
    """Return the row numbers of the kept rows with a warning, by its code. numbers, keep: of all rows."""
    rows_by_kind: dict[str, set[int]] = {}
    for texts, owners in looked_at.suspicious.values():
        kept = keep[owners]
        for locate in (pii.locate, placeholders.locate):
            for kind, rows in locate(texts.filter(pa.array(kept)), numbers[owners[kept]]).items():
                rows_by_kind.setdefault(kind, set()).update(rows)
    return {kind: sorted(rows) for kind, rows in rows_by_kind.items()}


def _describe(result: BatchResult, values: list[Any], shapes: PlacedRows, row_format: Format, sidecar: Sidecar) -> None:
    """Count the rows that identify the file's format, and collect the names of columns, and of those and turn keys that
    are dropped."""
    result.columns = list(dict.fromkeys(name for shape in shapes for name in shape))
    for shape, places in shapes.items():
        names = set(rename(dict.fromkeys(shape), sidecar))
        result.objects += len(places)
        if any(required <= names for required in row_format.required):
            result.known += len(places)
            result.unknown |= unread_columns(row_format, shape, sidecar)
    result.unknown |= unread_turn_keys(row_format, values, sidecar)
    # A row with a duplicate key or a lone surrogate is still an object.
    unparsed_objects = sum(len(result.reasons.get(code, ())) for code in ("duplicate_key", "lone_surrogate"))
    if "excluded" in result.reasons:
        result.known += sum(isinstance(value, dict) and is_erasure_marker(value) for value in values)
    result.objects += unparsed_objects
    result.known += unparsed_objects


def _read_names(values: Sequence[Any], column: str) -> tuple[list[str | None], dict[int, Fault]]:
    """Return the named group of each row, None for rows without one, and the faults by position.

    Such a group is a user, a thread or a document. values: parsed rows. A whole number names a group as its digits do.
    """
    names: list[str | None] = [None] * len(values)
    faults: dict[int, Fault] = {}
    for position, value in enumerate(values):
        name = value.get(column) if type(value) is dict else None
        if name is None:
            continue
        if isinstance(name, float) and name.is_integer():  # a table in which the column has empty cells
            name = int(name)
        if isinstance(name, str):
            names[position] = None if is_empty(name) else name
        elif type(name) is int:
            names[position] = str(name)
        else:
            message = f"the group {shorten(column)} is {describe_value(name)}; it must be a text or a whole number"
            faults[position] = Fault("wrong_type", message)
    return names, faults
