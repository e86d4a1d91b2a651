"""Dagster's instance, opened by one process at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from ft_pipeline.store.locks import FileLock


@contextlib.contextmanager
def opened() -> Iterator[dg.DagsterInstance]:
    """Dagster's instance. One process at a time opens it: two that find no database yet would both make its tables."""
    home = os.environ.get("DAGSTER_HOME")
    lock = FileLock(Path(home) / "opening", "opening Dagster's database") if home else None
    with lock.hold() if lock else contextlib.nullcontext():
        instance = dg.DagsterInstance.get()
    with instance:
        yield instance
