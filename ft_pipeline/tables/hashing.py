"""The identity of a row and of a table."""

import hashlib
from typing import Any

import orjson
import pyarrow as pa


def row_id(row: dict[str, Any]) -> str:
    """sha256 (hex) of the row as canonical JSON: sorted keys, no white space, UTF-8."""
    return hashlib.sha256(orjson.dumps(row, option=orjson.OPT_SORT_KEYS)).hexdigest()


class RowsDigest:
    """sha256 over rows by their ids and whatever else of them counts, however they come in batches."""

    def __init__(self) -> None:
        self._ids, self._others = hashlib.sha256(), hashlib.sha256()

    def add(self, ids: pa.ChunkedArray, others: pa.ChunkedArray) -> None:
        """Take in a batch: its ids (64 hex digits each) and one more column, of integers or of short texts."""
        self._ids.update("".join(ids.to_pylist()).encode())
        if pa.types.is_integer(others.type):
            self._others.update(others.to_numpy().astype("<i8").tobytes())
        else:
            self._others.update("".join(f"{text}\n" for text in others.to_pylist()).encode())

    def end(self, name: str, count: int) -> None:
        """Close a part, such as the rows of one file."""
        self._others.update(f"{name}\x00{count}\n".encode())

    def hexdigest(self) -> str:
        """The hash of all rows so far, in their order."""
        return hashlib.sha256(self._ids.digest() + self._others.digest()).hexdigest()
