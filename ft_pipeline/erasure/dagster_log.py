"""Remove erased texts from Dagster's files: its event log contains the previews that the UI shows.

The files are SQLite databases. They are read and written directly, so that Dagster is not imported.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ft_pipeline.project import has_separate_database
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.store.text_redaction import ErasedTexts

LOG_SUFFIXES = (".out", ".err", ".log", ".txt")
BUSY_SECONDS = 30.0
"""How long to wait for a database that another process is writing."""


def redact_dagster_home(folder: Path, erased: ErasedTexts) -> tuple[int, list[str]]:
    """Redact every text column of every database below `folder`, and the logs of runs.

    Return (number of changed cells and logs, notes on what was not redacted).
    """
    notes = []
    if has_separate_database(folder):
        notes.append("Dagster's records are in a separate database (dagster.yaml), whose previews were not redacted")
    changed = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".db":
            changed += _redact_database(path, erased)
        elif path.suffix in LOG_SUFFIXES:
            changed += _redact_log(path, erased)
    return changed, notes


def _redact_database(path: Path, erased: ErasedTexts) -> int:
    changed = 0
    with translate_write_errors(), closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        for table, column in list(_text_columns(connection)):
            cells = connection.execute(f'SELECT rowid, "{column}" FROM "{table}"').fetchall()
            for rowid, text in cells:
                redacted = _redact_cell(text, erased) if isinstance(text, str) else text
                if redacted != text:
                    connection.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (redacted, rowid))
                    changed += 1
        connection.commit()
        if changed:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")  # what was overwritten must not stay in free pages
    return changed


def _text_columns(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Yield (table, column) for each column of text."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for (table,) in tables.fetchall():
        for _, column, column_type, *_ in connection.execute(f'PRAGMA table_info("{table}")'):
            if column_type.upper().startswith(("TEXT", "VARCHAR", "CHAR", "CLOB", "JSON")):
                yield table, column


def _redact_cell(text: str, erased: ErasedTexts) -> str:
    """Return a cell without the erased texts. JSON is parsed, so that truncated texts are recognized by their ends."""
    if not erased.may_be_in(text):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return erased.redact_text(text)
    if isinstance(value, (dict, list)):
        redacted = erased.redact_value(value)
        return json.dumps(redacted) if redacted != value else text
    return erased.redact_text(text)


def _redact_log(path: Path, erased: ErasedTexts) -> int:
    """Redact a log as plain text, whatever its suffix. Return 1 if it contained an erased text, else 0."""
    before = path.read_bytes()
    after = erased.redact_file(path.with_suffix(".txt").name, before)
    if after == before:
        return 0
    write_atomically(path, after)
    return 1
