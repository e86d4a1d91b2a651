"""Flags for the rows of a batch that need all checks: one pass over their bytes excludes nearly all rows.

A row that is not flagged here passes every check of content_checks.py (a test verifies this). A flagged row may pass
too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.checks.content_checks import MAX_ROW_CHARS, MIN_TEXT_CHARS, may_be_equal
from ft_pipeline.tables.dedup.tokens import buffers
from ft_pipeline.tables.formats.base import ArrowColumns, Format
from ft_pipeline.tables.formats.comparison_texts import ComparisonTexts
from ft_pipeline.tables.text_rules import REFUSAL_PROBE, REFUSAL_PROBE_CHARS

_FAULTY, _PERSONAL = 1, 2
_MARKS = np.zeros(256, dtype=np.uint8)
_MARKS[[*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]] = _FAULTY
_MARKS[list(b"<[{")] = _FAULTY
"""Every control token begins with < or [, every placeholder with {."""
_MARKS[list(b"0123456789@")] = _PERSONAL
"""Every kind of personal data that pii.py finds contains one of these characters."""


@dataclass
class PrefilterFlags:
    """bool per row."""

    faulty: np.ndarray
    """May fail a check."""
    personal: np.ndarray
    """May contain personal data."""


def prefilter_rows(row_format: Format, columns: ArrowColumns, views: ComparisonTexts) -> PrefilterFlags:
    """Return the flags of rows, given as the columns of their format."""
    count = len(views.prompts)
    marks, sizes = np.zeros(count, dtype=np.uint8), np.zeros(count, dtype=np.int64)
    for cells in columns.values():
        _look_at(*strings_of(cells), marks, sizes)
    faulty = marks & _FAULTY > 0
    for name in row_format.checks:
        faulty |= MAY_FAIL[name](columns, views, sizes)
    for column in row_format.columns:
        if column.is_answer:
            texts, owners = strings_of(columns[column.name])
            starts = pc.utf8_slice_codeunits(texts, 0, REFUSAL_PROBE_CHARS)
            faulty[owners[_flags(pc.match_substring_regex(starts, REFUSAL_PROBE))]] = True
    return PrefilterFlags(faulty, marks & _PERSONAL > 0)


def _look_at(texts: pa.Array, owners: np.ndarray, marks: np.ndarray, sizes: np.ndarray) -> None:
    """Add the marks and byte counts of texts to those of their rows. `owners` is ascending."""
    if not len(texts):
        return
    offsets, data = buffers(texts)
    np.add.at(sizes, owners, np.diff(offsets))
    byte_marks = _MARKS[data[offsets[0] : offsets[-1]]]
    places = np.flatnonzero(byte_marks)
    if places.size:
        rows = owners[np.searchsorted(offsets, places + offsets[0], side="right") - 1]
        firsts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
        marks[rows[firsts]] |= np.bitwise_or.reduceat(byte_marks[places], firsts)


def strings_of(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return all strings of a column except role names, as large_string, and for each the position of its row.

    The positions are ascending.
    """
    kind = column.type
    if pa.types.is_struct(kind):
        parts = [strings_of(column.field(index)) for index in _text_fields(column)]
        if len(parts) == 1:
            return parts[0]
        texts = pa.concat_arrays([part[0] for part in parts])
        owners = np.concatenate([part[1] for part in parts])
        order = np.argsort(owners, kind="stable")
        return texts.take(pa.array(order)), owners[order]
    if pa.types.is_list(kind):
        texts, owners = strings_of(column.flatten())
        return texts, pc.list_parent_indices(column).to_numpy(zero_copy_only=False)[owners]
    if column.null_count:
        valid = np.flatnonzero(_flags(pc.is_valid(column)))
        return column.take(pa.array(valid)).cast(pa.large_string()), valid
    return column.cast(pa.large_string()), np.arange(len(column))


def _text_fields(column: pa.StructArray) -> list[int]:
    """Return the positions of the fields with texts, but for `role` and fields that are null in every item."""
    return [
        index
        for index, field in enumerate(column.type)
        if field.name != "role"
        and not pa.types.is_floating(field.type)
        and (field.name == "content" or column.field(index).null_count < len(column))
    ]


def _may_be_too_long(columns: ArrowColumns, views: ComparisonTexts, sizes: np.ndarray) -> np.ndarray:
    return sizes > MAX_ROW_CHARS  # bytes: never fewer than characters


def _may_be_too_short(columns: ArrowColumns, views: ComparisonTexts, sizes: np.ndarray) -> np.ndarray:
    texts = (cells for cells in columns.values() if pa.types.is_string(cells.type))
    lengths = [pc.utf8_length(pc.utf8_trim_whitespace(cells)) for cells in texts]
    return np.logical_or.reduce([_flags(pc.less(length, MIN_TEXT_CHARS)) for length in lengths])


def _may_repeat_instruction(columns: ArrowColumns, views: ComparisonTexts, sizes: np.ndarray) -> np.ndarray:
    faulty = np.array(_flags(pc.equal(views.prompts, views.answers)))
    more = pc.or_(
        pc.not_equal(columns["input"], ""), pc.or_(pc.is_valid(columns["system"]), pc.is_valid(columns["history"]))
    )
    instruction, extra, output = (
        columns[name].filter(more).cast(pa.large_string()) for name in ("instruction", "input", "output")
    )
    same = pc.equal(pc.utf8_trim_whitespace(extra), pc.utf8_trim_whitespace(output))
    faulty[np.flatnonzero(_flags(more))] |= may_be_equal(instruction, output) | _flags(same)
    return faulty


def _may_repeat_turn(columns: ArrowColumns, views: ComparisonTexts, sizes: np.ndarray) -> np.ndarray:
    faulty = np.zeros(len(sizes), dtype=bool)
    if views.said is not None and len(views.said) > 1:
        same = _flags(pc.equal(views.said[:-1], views.said[1:]))
        faulty[pc.list_parent_indices(columns["messages"]).to_numpy(zero_copy_only=False)[1:][same]] = True
    return faulty


def _always(columns: ArrowColumns, views: ComparisonTexts, sizes: np.ndarray) -> np.ndarray:
    return np.ones(len(sizes), dtype=bool)


def _flags(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


MAY_FAIL: Mapping[str, Callable[[ArrowColumns, ComparisonTexts, np.ndarray], np.ndarray]] = {
    "too_short": _may_be_too_short,
    "too_long": _may_be_too_long,
    "echoed_instruction": _may_repeat_instruction,
    "echoed_turn": _may_repeat_turn,
    "echoed_prompt": _always,
    "equal_answers": _always,
}
"""Check (content_checks.COLUMN_CHECKS and ROW_CHECKS) → which rows may fail it, from the columns, the comparison texts
and the sizes of the rows in bytes."""
