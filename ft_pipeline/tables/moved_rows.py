"""Which rows changed their split since the conversations that were built before, and why."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.store.bounded_duckdb import bounded_duckdb
from ft_pipeline.tables.accounts import RowWarning

_COUNT_MOVES = """
    WITH aside AS (SELECT id, code FROM read_parquet($aside) WHERE id IS NOT NULL)
    SELECT old.split, coalesce(new.split, 'set aside as ' || aside.code) AS place, count(DISTINCT old.id)
    FROM read_parquet($old) AS old LEFT JOIN read_parquet($new) AS new USING (id) LEFT JOIN aside USING (id)
    WHERE old.split <> new.split OR (new.id IS NULL AND aside.id IS NOT NULL)
    GROUP BY ALL ORDER BY ALL
"""
_COUNT_CHANGES = """
    WITH aside AS (SELECT id, "table", file, "row" FROM read_parquet($aside) WHERE id IS NOT NULL),
    after AS (SELECT id, "table", file, "row" FROM read_parquet($new) UNION ALL FROM aside),
    gone AS (FROM read_parquet($old) WHERE id NOT IN (SELECT id FROM after)),
    added AS (FROM after WHERE id NOT IN (SELECT id FROM read_parquet($old)))
    SELECT split, count(*) FROM gone SEMI JOIN added USING ("table", file, "row")
    WHERE split <> 'train' GROUP BY ALL ORDER BY ALL
"""
NEW_RULE = (
    "this version splits by the words of prompts, so that no comma or capital letter moves a row, finds held-out turns "
    "also with changed words, and keeps paraphrases with one standard answer"
)


def count_moves(before: Path, after: Path) -> dict[str, int]:
    """Return "train → test" → number of rows, for rows that are in both conversations artifacts but moved between
    splits, or are now set aside; and "test, changed" for held-out rows with another text at the same place of their
    file. Rows that are new or gone do not count."""
    paths = {"old": before / "rows.parquet", "new": after / "rows.parquet", "aside": after / "set_aside.parquet"}
    files = {name: str(path) for name, path in paths.items()}
    with bounded_duckdb() as connection:
        moves = connection.execute(_COUNT_MOVES, files).fetchall()
        changes = connection.execute(_COUNT_CHANGES, files).fetchall()
    counts = {f"{split} → {place}": count for split, place, count in moves}
    return counts | {f"{split}, changed": count for split, count in changes}


def moves_warning(moves: Mapping[str, int], before: Mapping[str, Any], after: Mapping[str, Any]) -> RowWarning:
    """Return the warning about moved rows. before, after: the specs of the two conversations, as JSON."""
    old, new = before["config"]["data"], after["config"]["data"]
    changed = sorted(key for key in old.keys() & new.keys() if old[key] != new[key])
    if changed:
        why = "; ".join(f"data.{key} was {old[key]} and is {new[key]}" for key in changed)
    elif before["versions"]["code"] != after["versions"]["code"]:
        why = NEW_RULE
    else:
        why = "rows or golden test files were added, changed or removed"
    named = ", ".join(f"{move}: {count:,}" for move, count in moves.items())
    return RowWarning("rows_moved", f"rows that were there before moved or changed ({named}), because {why}")
