"""Remove erased texts from Dagster's databases: its event log contains the previews that the UI shows.

The files are SQLite databases. They are read and written directly, so that Dagster is not imported.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.text_redaction import ErasedTexts

BUSY_SECONDS = 30.0
"""How long to wait for a database that another process is writing."""


def redact_database(path: Path, erased: ErasedTexts) -> int:
    """Redact every text column of a database. Return the number of changed cells.

    Raises sqlite3.DatabaseError if the file is no database, or damaged.
    """
    changed = 0
    with translate_write_errors(), closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        for table, column in list(_text_columns(connection)):
            cells = connection.execute(f'SELECT "{column}", rowid FROM "{table}"')
            redacted = ((_redact_cell(text, erased), text, row) for text, row in cells if isinstance(text, str))
            changes = [(after, row) for after, before, row in redacted if after != before]
            connection.executemany(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', changes)
            changed += len(changes)
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
        if isinstance(value, (dict, list)):
            redacted = erased.redact_value(value)
            return json.dumps(redacted) if redacted != value else text
    except (ValueError, RecursionError):
        pass
    return erased.redact_text(text)
