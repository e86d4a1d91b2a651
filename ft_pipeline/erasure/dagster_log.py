"""Remove erased texts from Dagster's files: its event log contains the previews that the UI shows.

The files are SQLite databases. They are read and written directly, so that Dagster is not imported.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ft_pipeline.project import records_elsewhere
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.store.text_redaction import ErasedTexts

LOGS = (".out", ".err", ".log", ".txt")
BUSY_SECONDS = 30.0


def redact_dagster_home(folder: Path, secrets: ErasedTexts) -> tuple[int, list[str]]:
    """Redact every text column of every database below `folder`, and the logs of runs: (places changed, notes)."""
    notes = []
    if records_elsewhere(folder):
        notes.append("Dagster's records are in a separate database (dagster.yaml), whose previews were not redacted")
    changed = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".db":
            changed += _redact_database(path, secrets)
        elif path.suffix in LOGS:
            changed += _redact_log(path, secrets)
    return changed, notes


def _redact_database(path: Path, secrets: ErasedTexts) -> int:
    changed = 0
    with translate_write_errors(), closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        for table, column in list(_text_columns(connection)):
            rows = connection.execute(f'SELECT rowid, "{column}" FROM "{table}"').fetchall()
            for rowid, text in rows:
                if isinstance(text, str) and secrets.may_be_in(text) and (after := _scrubbed(text, secrets)) != text:
                    connection.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (after, rowid))
                    changed += 1
        connection.commit()
        if changed:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")  # what was overwritten must not stay in free pages
    return changed


def _text_columns(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for (table,) in tables.fetchall():
        for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")'):
            if kind.upper().startswith(("TEXT", "VARCHAR", "CHAR", "CLOB", "JSON")):
                yield table, column


def _scrubbed(text: str, secrets: ErasedTexts) -> str:
    """A cell without the erased texts. JSON is parsed, so that truncated texts are recognized by their ends."""
    try:
        value = json.loads(text)
    except ValueError:
        return secrets.text(text)
    if isinstance(value, (dict, list)):
        after = secrets.value(value)
        return json.dumps(after) if after != value else text
    return secrets.text(text)


def _redact_log(path: Path, secrets: ErasedTexts) -> int:
    before = path.read_bytes()
    after = secrets.content(path.with_suffix(".txt").name, before)
    if after == before:
        return 0
    write_atomically(path, after)
    return 1
