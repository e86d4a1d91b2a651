"""DuckDB in memory, within a limit: what does not fit is written to a temporary folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

MEMORY_LIMIT = "2GB"


@contextmanager
def bounded_duckdb() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection that is closed afterwards."""
    with tempfile.TemporaryDirectory(prefix="ft-sql-") as folder, duckdb.connect(":memory:") as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute(f"SET temp_directory = '{folder}'")
        yield connection
