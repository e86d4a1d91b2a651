"""Searches and replacements of single bytes in many texts at once. Arrow's regular expressions take ten times as long.

A table gives, for each value of a byte, what it becomes: bytes.translate reads it faster than an index of numpy does.
"""

import numpy as np
import pyarrow as pa


def buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 offsets, uint8 data) of a large_string array: text i is data[offsets[i]:offsets[i + 1]]."""
    _, offsets, data = texts.buffers()
    positions = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return positions, np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, np.uint8)


def table_of(marked: bytes) -> bytes:
    """Return the table for `having` that marks some bytes."""
    return bytes(byte in marked for byte in range(256))


def having(texts: pa.Array, marked: bytes) -> np.ndarray:
    """Return a bool for each text of a large_string array: whether it has one of the bytes that a table marks by 1."""
    offsets, mapped = _mapped(texts, marked)
    has = np.zeros(len(texts), dtype=bool)
    has[np.searchsorted(offsets, np.flatnonzero(mapped), side="right") - 1] = True
    return has


def squeezed(texts: pa.Array, table: bytes) -> pa.Array:
    """Return texts, a large_string array without nulls, with their bytes replaced by a table, and each run of spaces
    that results by one space. UTF-8 must stay UTF-8."""
    offsets, mapped = _mapped(texts, table)
    is_space = mapped == ord(" ")
    repeats = is_space[1:] & is_space[:-1]
    begins = offsets[1:-1]
    repeats[begins[(begins > 0) & (begins < len(mapped))] - 1] = False
    removed = np.flatnonzero(repeats) + 1
    if len(removed):
        kept = np.ones(len(mapped), dtype=bool)
        kept[removed] = False
        mapped, offsets = mapped[kept], offsets - np.searchsorted(removed, offsets)
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(mapped))


def _mapped(texts: pa.Array, table: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 offsets, uint8 bytes as the table has them) of texts. The offsets begin with 0."""
    offsets, data = buffers(texts)
    text = data[offsets[0] : offsets[-1]].tobytes()
    return offsets - offsets[0], np.frombuffer(text.translate(table), np.uint8)
