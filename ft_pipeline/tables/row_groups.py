"""Writes a Parquet file in row groups of a good size, even if its rows come from thousands of small files."""

from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 65_536
"""Maximum number of rows in a row group."""
GROUP_BYTES = 16 << 20
"""A row group is written when it has this many bytes."""
GROUP_TABLES = 1000
"""A row group is written when it has this many tables, because each of them may be a file that is mapped to memory."""


class RowGroupWriter:
    """Writes tables of one schema. They are joined, in order, so that a row group holds many small ones."""

    def __init__(self, path: Path, schema: pa.Schema, **options: Any) -> None:
        self._writer = pq.ParquetWriter(path, schema, **options)
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0

    def write_table(self, table: pa.Table) -> None:
        """Write a table. Its columns are those of the schema, in its order."""
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= ROW_GROUP or self._bytes >= GROUP_BYTES or len(self._tables) >= GROUP_TABLES:
            self._flush()

    def __enter__(self) -> "RowGroupWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.concat_tables(self._tables), row_group_size=ROW_GROUP)
        self._tables, self._rows, self._bytes = [], 0, 0
