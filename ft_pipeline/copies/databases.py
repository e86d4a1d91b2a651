"""Dagster's run history: SQLite files, copied while runs go on."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from ft_pipeline.errors import UserError

DATABASE_SUFFIX = ".db"
QUIET_SECONDS = 60
"""A database that was not written for so long, and has no log of changes, is copied like any file."""


def database_files(home: Path) -> list[Path]:
    """Return the databases of Dagster's folder."""
    return sorted(path for path in home.rglob(f"*{DATABASE_SUFFIX}") if path.is_file() and not path.is_symlink())


def is_in_use(database: Path) -> bool:
    """Return whether a process may be writing to a database. Then its file alone is not the whole database."""
    return any(_logs_with_content(database)) or time.time() - database.stat().st_mtime < QUIET_SECONDS


def copy_database(database: Path, target: Path) -> None:
    """Write the database as it is now, by SQLite's own backup. UserError if it is damaged, or locked for too long."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
            ) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
    except sqlite3.Error as error:
        raise UserError(f"The database {database} cannot be copied ({error}). Run again.") from None


def _logs_with_content(database: Path) -> Iterator[Path]:
    for suffix in ("-wal", "-journal"):
        log = database.with_name(database.name + suffix)
        if log.is_file() and log.stat().st_size:
            yield log
