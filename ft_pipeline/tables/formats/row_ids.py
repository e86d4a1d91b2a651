"""The id of a row and the digest of a table."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.formats.base import Format, Record
from ft_pipeline.tables.formats.comparison_texts import as_large, text_scalar
from ft_pipeline.tables.text_bytes import buffers, having, table_of

_ESCAPED = table_of(b'"\\\x7f' + bytes(range(0x20)))
"""The characters that JSON escapes (and U+007F, to be safe)."""
_ID_DIGITS = 64
_LABELS = ("tags", "session")
"""Columns that are no part of an id."""
_LATER = ("tools", "reference")
"""Columns that are part of an id only if they are not null."""


def row_id(row: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of what a row says, as canonical JSON: sorted keys, no white space, UTF-8.

    Tags, sessions and the weights of turns say how a row is used, so they are left out: with others it is the same row.
    So are `tools` and `reference` if they are null: other rows keep the ids that they had before these columns existed.
    """
    said = {
        name: _said(cell)
        for name, cell in row.items()
        if name not in _LABELS and (name not in _LATER or cell is not None)
    }
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _said(cell: Any) -> Any:
    """Return a cell. If it is a list of turns, their weights are removed."""
    if isinstance(cell, list) and any(isinstance(turn, dict) and "weight" in turn for turn in cell):
        return [{key: item for key, item in turn.items() if key != "weight"} for turn in cell]
    return cell


def row_ids(row_format: Format, records: Sequence[Record]) -> pa.Array:
    """Return row_id of each record."""
    names = row_format.column_names
    return pa.array([row_id(dict(zip(names, record, strict=True))) for record in records], pa.string())


def ids_of_texts(texts: Mapping[str, pa.Array], nulls: Collection[str]) -> pa.Array:
    """Return row_id of each row. texts: string columns. nulls: the names of the columns that are null in every row."""
    parts: list[pa.Array | pa.Scalar] = []
    head, before = "{", ""
    for name in sorted([*texts, *nulls]):
        head += f'{before}"{name}":'
        if name in texts:
            parts += [text_scalar(head + '"'), _as_json(as_large(texts[name]))]
            head = '"'
        else:
            head += "null"
        before = ","
    digests = b"".join(sha256_of_each(pc.binary_join_element_wise(*parts, text_scalar(head + "}"), text_scalar(""))))
    count = len(digests) // hashlib.sha256().digest_size
    offsets = np.arange(count + 1, dtype=np.int32) * _ID_DIGITS
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digests.hex().encode()))


def sha256_of_each(texts: pa.Array) -> list[bytes]:
    """Return the SHA-256 digest of each text of a large_string array, in UTF-8."""
    ends, data = buffers(texts)
    view, empty = data.data, hashlib.sha256()
    digests = []
    for begin, end in pairwise(ends.tolist()):
        digest = empty.copy()  # a new one takes OpenSSL longer
        digest.update(view[begin:end])
        digests.append(digest.digest())
    return digests


def _as_json(texts: pa.Array) -> pa.Array:
    """Return the texts escaped as in JSON, without the quotes."""
    has_escapes = having(texts, _ESCAPED)
    if not has_escapes.any():
        return texts
    escaped = pa.array(has_escapes)
    rewritten = [orjson.dumps(text)[1:-1].decode() for text in texts.filter(escaped).to_pylist()]
    return pc.replace_with_mask(texts, escaped, pa.array(rewritten, pa.large_string()))


def _update(digest: Any, texts: pa.ChunkedArray) -> None:
    """Add all texts, one after the other, to a digest of hashlib."""
    for chunk in texts.chunks:
        _, offsets, data = as_large(chunk).buffers()
        ends = np.frombuffer(offsets, dtype=np.int64)
        if data is not None:
            digest.update(memoryview(data)[ends[chunk.offset] : ends[chunk.offset + len(chunk)]])


class RowsDigest:
    """SHA-256 over the ids of rows and one more column. It does not depend on how the rows are split into batches."""

    def __init__(self) -> None:
        self._ids, self._others = hashlib.sha256(), hashlib.sha256()

    def add(self, ids: pa.ChunkedArray, others: pa.ChunkedArray) -> None:
        """Add a batch: its ids (64 hex digits each) and one more column, of integers or of short texts."""
        _update(self._ids, ids)
        if pa.types.is_integer(others.type):
            self._others.update(others.to_numpy().astype("<i8").tobytes())
        else:
            _update(self._others, pc.binary_join_element_wise(others, "", "\n"))

    def end(self, name: str, count: int) -> None:
        """Close a part, such as the rows of one file."""
        self._others.update(f"{name}\x00{count}\n".encode())

    def hexdigest(self) -> str:
        """Return the hash of all rows so far, in their order."""
        return hashlib.sha256(self._ids.digest() + self._others.digest()).hexdigest()
