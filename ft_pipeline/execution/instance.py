"""Opens Dagster's instance in one process at a time, and allows only one UI with a daemon per project."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.project import has_separate_database
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.store.locks import FileLock


def require_writable(home: Path) -> None:
    """Raise UserError if this user cannot write to Dagster's folder, which SQLite needs even for reading."""
    if not os.access(home, os.W_OK | os.X_OK):
        raise UserError(
            f"You cannot write to {home}, which Dagster's database needs even for reading. Run this as the owner of "
            "the project, or use `ft audit` or `ft compare`, which only read."
        )


def lock_ui(home: Path) -> FileLock:
    """Acquire and return the lock of a project's `ft ui`.

    Raises UserError if another process holds it: two daemons would both start what is due.
    """
    lock = FileLock(home / "ui", "ft ui")
    if not lock.try_acquire():
        raise UserError(
            f"The UI of this project is already running in {lock.holder()}. To start a second one, run: "
            "ft ui --read-only --port N"
        )
    return lock


@contextlib.contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """`connect_instance`, in one process at a time: two processes without a database would both create its tables."""
    home = os.environ.get("DAGSTER_HOME")
    lock = FileLock(Path(home) / "opening", "opening Dagster's database") if home else None
    with lock.hold() if lock else contextlib.nullcontext():
        instance = connect_instance()
    with instance:
        yield instance


def connect_instance() -> dg.DagsterInstance:
    """Return Dagster's instance. Raises UserError if dagster.yaml names a database that cannot be opened."""
    home = Path(os.environ.get("DAGSTER_HOME", ""))
    if not has_separate_database(home):
        return dg.DagsterInstance.get()
    settings = home / "dagster.yaml"
    try:
        return _open_separate_database(settings)
    except UserError:
        raise
    except Exception as error:  # YAML, the driver, SQLAlchemy and Dagster raise different types
        raise UserError(
            f"Dagster's database cannot be opened: {_root_cause(error)}. Start the server, or correct the address in "
            f"{settings}. For PostgreSQL, run: pip install 'ft-pipeline[postgres]'"
        ) from error


def _open_separate_database(settings: Path) -> dg.DagsterInstance:
    """Raises UserError if an environment variable that dagster.yaml refers to is not set."""
    for name in _referenced_variables(load_bounded(settings.read_text(encoding="utf-8"))["storage"]):
        if not os.environ.get(name):
            raise UserError(
                f"{name} is not set, but {settings} reads the address of Dagster's database from it. Set it."
            )
    return dg.DagsterInstance.get()


def _referenced_variables(settings: Any) -> list[str]:
    """The environment variables that the settings refer to (`env: NAME`)."""
    if isinstance(settings, dict):
        names = [settings["env"]] if isinstance(settings.get("env"), str) else []
        return names + [name for value in settings.values() for name in _referenced_variables(value)]
    return [name for value in settings for name in _referenced_variables(value)] if isinstance(settings, list) else []


def _root_cause(error: BaseException) -> str:
    """The first line of the root cause's message. A driver's message contains the host and user, but no password."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return first_line(error)
