"""Writes a Parquet file in row groups of a good size, even if its rows come from thousands of small files."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Writes tables of one schema. They are joined, in order, so that a row group holds many small ones.

    A thread checks, compresses and writes a group while the next one is collected.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, check: Callable[[pa.Table], None] | None = None, **options: Any
    ) -> None:
        """check: is given each row group before it is written."""
        self._writer = pq.ParquetWriter(path, schema, **options)
        self._check = check
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None
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
        with self._thread:
            if error is None:
                self._flush()
                self._wait()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._wait()
            self._written = self._thread.submit(self._write, pa.concat_tables(self._tables))
        self._tables, self._rows, self._bytes = [], 0, 0

    def _write(self, table: pa.Table) -> None:
        if self._check:
            self._check(table)
        self._writer.write_table(table, row_group_size=ROW_GROUP)

    def _wait(self) -> None:
        """Wait for the group that is being written, and raise its error."""
        if self._written is not None:
            self._written.result()
