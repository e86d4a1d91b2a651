"""Consecutive rows of a raw file, as its reader hands them on."""

from dataclasses import dataclass, field
from typing import Any, BinaryIO

BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 64 << 20
HEAD_BYTES = 1 << 16
BOM = b"\xef\xbb\xbf"
JSON_SPACE = b" \t\r\n"


@dataclass
class Batch:
    """Consecutive rows. One of `block`, `lines` (JSON, still to be parsed) and `values` (or Faults) is given."""

    rows: list[int]
    """1-based line, list index, or data row; of a block, only the number of its first line."""
    block: bytes | None = None
    """Whole lines, still to be divided."""
    lines: list[bytes] | None = None
    values: list[Any] = field(default_factory=list)
    offsets: list[int] | None = None
    """Where each element of an array begins, in bytes."""


def divide(batch: Batch) -> Batch:
    """The lines of a block that are not blank, with their numbers; other batches as they are."""
    if batch.block is None:
        return batch
    first, lines = batch.rows[0], batch.block.split(b"\n")
    rows = [row for row, line in enumerate(lines, first) if line and not line.isspace()]
    if len(rows) < len(lines):
        lines = [lines[row - first] for row in rows]
    return Batch(rows, lines=lines)


def skip_bom(file: BinaryIO) -> int:
    """Move past a byte-order mark; its length."""
    if file.read(len(BOM)) == BOM:
        return len(BOM)
    file.seek(0)
    return 0
