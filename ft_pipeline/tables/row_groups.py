"""Writes a Parquet file in row groups of a good size, even if its rows come from thousands of small files."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
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
WAITING = 2
"""Number of row groups that are written, or wait for it, while the next one is collected."""


class RowGroupWriter:
    """Writes tables of one schema. They are joined, in order, so that a row group holds many small ones.

    One thread compresses and writes the groups, and one checks them, while the next one is collected.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, check: Callable[[pa.Table], None] | None = None, **options: Any
    ) -> None:
        """check: is given each row group, one after the other."""
        self._writer = pq.ParquetWriter(path, schema, **options)
        uses = [self._write] if check is None else [self._write, check]
        self._threads = [(ThreadPoolExecutor(1), use) for use in uses]
        self._under_way: deque[list[Future[None]]] = deque()
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
        with ExitStack() as threads:
            for thread, _ in self._threads:
                threads.enter_context(thread)
            if error is None:
                self._flush()
                self._wait(0)
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._wait(WAITING - 1)
            group = pa.concat_tables(self._tables)
            self._under_way.append([thread.submit(use, group) for thread, use in self._threads])
        self._tables, self._rows, self._bytes = [], 0, 0

    def _write(self, group: pa.Table) -> None:
        self._writer.write_table(group, row_group_size=ROW_GROUP)

    def _wait(self, count: int) -> None:
        """Wait until at most so many groups are under way, and raise the error of a group that is written."""
        while len(self._under_way) > count:
            for future in self._under_way.popleft():
                future.result()
