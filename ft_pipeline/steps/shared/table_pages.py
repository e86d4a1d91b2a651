"""What the pages of several tables show: example rows, warnings, languages, and the meaning of their columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.page import Table, beginning_with
from ft_pipeline.step import CheckSpec
from ft_pipeline.tables.finished_tables import FILES, QUARANTINE, FinishedTable

MATCHES_SCHEMA = CheckSpec(
    "matches_schema",
    "pandera: every row has the columns, types and values that the table declares, and no id stands twice.",
    optional=True,
)
"""Artifacts of older versions have no result."""
EXAMPLE_ROWS = 5
"""Rows of a table on its page."""
ACCOUNT_COLUMNS = {
    "table": "The table, and the folder under data/raw",
    **{name: FILES.descriptions[name] for name in ("file", "status", "read", "accepted", "quarantined", "duplicates")},
    "later": "Accepted rows that `conversations` sets aside: duplicates across tables, overlap with held-out rows",
    "reasons": "Rows by code, most frequent first",
    "refused": "Why the whole file is refused, and what to do",
    "code": QUARANTINE.descriptions["code"],
    "count": "Number of rows",
    "rows": "Row numbers in the file, counted from 1",
    "meaning": "What the code means",
}
OF_ROWS = beginning_with(QUARANTINE.descriptions, "message", "raw")
OF_FILES = beginning_with(ACCOUNT_COLUMNS, "file", "quarantined", "duplicates")
OF_LOCATIONS = beginning_with(ACCOUNT_COLUMNS, "code", "count", "file")
"""The columns of rows, files and reasons that a page shows first."""
_BEHIND_THE_TEXTS = {"group", "cluster", "tags", "table", "file", "row"}
"""Columns of example rows that a page shows last."""


def example_rows(rows: Sequence[Mapping[str, Any]], declared: FinishedTable) -> Table:
    """The first rows, without their ids and the columns that are empty in all of them."""
    shown = {
        name: text
        for name, text in declared.descriptions.items()
        if name != "id" and any(row.get(name) for row in rows)
    }
    texts = beginning_with(shown, *(name for name in shown if name not in _BEHIND_THE_TEXTS))
    return Table([{name: row.get(name) for name in texts} for row in rows[:EXAMPLE_ROWS]], texts)


def warning_table(warnings: Sequence[Mapping[str, Any]]) -> Table | None:
    """The warnings about rows; None without any."""
    columns = {
        "message": "What to look at",
        "file": "The file",
        "rows": "Numbers of the first rows",
        "code": "The code of the warning",
    }
    shown = [{column: warning.get(column) or "" for column in columns} for warning in warnings]
    return Table(shown, columns) if shown else None


def language_table(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata `languages`, if the summary has them: those of older versions do not."""
    languages = summary.get("languages")
    if not languages or not languages["sampled"]:
        return {}
    columns = {
        "language": "ISO 639 code. unknown: code, numbers, or too short to tell.",
        "rows": f"Rows in it, of {languages['sampled']:,} sampled rows",
        "share": "Share of the sampled rows",
    }
    rows = [
        {"language": language, "rows": count, "share": count / languages["sampled"]}
        for language, count in sorted(languages["counts"].items(), key=lambda item: (-item[1], item[0]))
    ]
    return {"languages": Table(rows, columns)}
