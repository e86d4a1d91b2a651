"""Batches: consecutive rows of a raw file, as the readers return them."""

from dataclasses import dataclass, field
from typing import Any, BinaryIO

BLOCK_BYTES = 4 << 20
"""Size of a batch. One row may be larger."""
MAX_LINE_BYTES = 64 << 20
"""A longer line, or element of a JSON array, is set aside unread."""
HEAD_BYTES = 1 << 16
"""Size of the start of a file, which decides how the file is read."""
BOM = b"\xef\xbb\xbf"
JSON_SPACE = b" \t\r\n"


@dataclass
class Batch:
    """Consecutive rows. One of `block`, `lines` (unparsed JSON) and `values` (which may include Faults) is given."""

    rows: list[int]
    """1-based line number, list index or data row. For a block, only the number of its first line."""
    block: bytes | None = None
    """Whole lines that are not yet split."""
    lines: list[bytes] | None = None
    values: list[Any] = field(default_factory=list)
    offsets: list[int] | None = None
    """Byte offset of each array element, white space before it included."""
    ends: list[int] | None = None
    """Byte offset of what follows each array element: a comma, or the end of the array."""

    def add_element(self, row: int, start: int, end: int, element: bytes) -> None:
        """Add an array element to a batch that has `lines`, `offsets` and `ends`."""
        assert self.lines is not None and self.offsets is not None and self.ends is not None
        self.rows.append(row)
        self.lines.append(element)
        self.offsets.append(start)
        self.ends.append(end)


def divide(batch: Batch) -> Batch:
    """Split a block into its non-blank lines with their numbers. Other batches are returned unchanged."""
    if batch.block is None:
        return batch
    first, lines = batch.rows[0], batch.block.split(b"\n")
    rows = [row for row, line in enumerate(lines, first) if line and not line.isspace()]
    if len(rows) < len(lines):
        lines = [lines[row - first] for row in rows]
    return Batch(rows, lines=lines)


def skip_bom(file: BinaryIO) -> int:
    """Skip a byte-order mark. Returns its length, or 0."""
    if file.read(len(BOM)) == BOM:
        return len(BOM)
    file.seek(0)
    return 0
