"""What the pages of the tables show in the UI."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline import plotting, small_plots
from ft_pipeline.page import Columns, Lineage, Picture, Table, beginning_with
from ft_pipeline.step import CheckSpec
from ft_pipeline.steps.column_lineage import conversations_lineage, table_lineage
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.tables.conversations import count_words
from ft_pipeline.tables.finished_tables import CONVERSATIONS, FILES, QUARANTINE, FinishedTable, finished_table
from ft_pipeline.tables.inspection import LISTED_ROW_COLUMNS, inspect_rows
from ft_pipeline.tables.quarantine import Part, overview

MATCHES_SCHEMA = CheckSpec(
    "matches_schema",
    "pandera: every row has the columns, types and values that the table declares, and no id stands twice.",
    optional=True,
)
"""Artifacts of older versions have no result."""
QUARANTINE_HELP = "ft sql \"select code, message, raw from quarantine where file = 'FILE' and row = 12\""
EXAMPLE_ROWS = 5
"""Rows of a table on its page."""
QUARANTINED_EXAMPLES = 3
"""Rows of the quarantine at the top of its page, of different reasons."""
ROWS_TO_LOOK_AT = 5
"""Rows of each list of `ft inspect` that a page shows."""
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
_ROWS = beginning_with(QUARANTINE.descriptions, "message", "raw")
_FILES = beginning_with(ACCOUNT_COLUMNS, "file", "quarantined", "duplicates")
_LOCATIONS = beginning_with(ACCOUNT_COLUMNS, "code", "count", "file")
"""The columns of rows, files and reasons that a page shows first."""
_BEHIND_THE_TEXTS = {"group", "cluster", "tags", "table", "file", "row"}
"""Columns of example rows that a page shows last."""


def table_metadata(artifact: Artifact) -> dict[str, Any]:
    """Return the page of a table: example rows, warnings, files, and what was set aside."""
    summary = artifact.summary
    declared = finished_table(artifact.kind)
    unused_rows = overview(Part(artifact.kind, artifact.path))
    metadata: dict[str, Any] = {
        "preview": _example_rows(summary["preview"], declared),
        "warnings": _warning_table(summary["warnings"]),
        **{key: summary[key] for key in ("read", "accepted", "quarantined", "duplicates")},
        "files": Table([_for_own_page(account) for account in unused_rows["accounts"]], _FILES),
        "dagster/row_count": summary["accepted"],
        "dagster/column_lineage": Lineage(table_lineage(artifact.kind, summary.get("mapped", {}))),
        "dagster/column_schema": Columns(declared),
    }
    if unused_rows["where"]:
        metadata["set_aside_where"] = Table([_for_own_page(location) for location in unused_rows["where"]], _LOCATIONS)
        metadata["set_aside_first"] = Table([_for_own_page(row) for row in unused_rows["first"]], _ROWS)
    return metadata | language_table(summary)


def _example_rows(rows: Sequence[Mapping[str, Any]], declared: FinishedTable) -> Table:
    """The first rows, without their ids and the columns that are empty in all of them."""
    shown = {
        name: text
        for name, text in declared.descriptions.items()
        if name != "id" and any(row.get(name) for row in rows)
    }
    texts = beginning_with(shown, *(name for name in shown if name not in _BEHIND_THE_TEXTS))
    return Table([{name: row.get(name) for name in texts} for row in rows[:EXAMPLE_ROWS]], texts)


def _warning_table(warnings: Sequence[Mapping[str, Any]]) -> Table | None:
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


def _for_own_page(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what the page of its own table need not show: the table, and rows that later steps set aside."""
    return {key: value for key, value in row.items() if key not in {"table", "later"}}


def conversations_metadata(artifact: Artifact) -> dict[str, Any]:
    """Return the page of the conversations: example rows, splits, warnings, and rows to look at."""
    summary = artifact.summary
    edges, counts = plotting.histogram(count_words(artifact.path))
    return {
        "preview": _example_rows(summary["preview"], CONVERSATIONS),
        "splits": _split_table(summary["tables"]),
        "warnings": _warning_table(summary["warnings"]),
        **_rows_to_look_at(artifact),
        "words": Picture(small_plots.bars(edges, counts, "words", "words per conversation")),
        "set_aside": summary["set_aside"] or None,
        **language_table(summary),
        "dagster/row_count": summary["accepted"],
        "dagster/column_lineage": Lineage(conversations_lineage()),
        "dagster/column_schema": Columns(CONVERSATIONS),
    }


def _split_table(tables: Mapping[str, Mapping[str, int]]) -> Table:
    """The number of conversations by table and split."""
    names = ("train", "validation", "test")
    return Table(
        [{"table": name, **{split: counts.get(split, 0) for split in names}} for name, counts in tables.items()]
    )


def _rows_to_look_at(artifact: Artifact) -> dict[str, Any]:
    """The longest and the oddest rows. In a large table, the oddest are searched in a sample."""
    found = inspect_rows(artifact.path / "rows.parquet", "conversations", ROWS_TO_LOOK_AT, all_rows=False)
    columns = {
        "list": f"oddest: of {found.searched:,} rows (ft inspect searches all rows). longest: of all rows.",
        **LISTED_ROW_COLUMNS,
    }
    columns = beginning_with(columns, "prompt", "why")
    lists = {"oddest": found.oddest, "longest": found.longest}
    rows = [{"list": name, **listed.to_json()} for name, listed_rows in lists.items() for listed in listed_rows]
    return {"rows_to_look_at": Table([{column: row[column] for column in columns} for row in rows], columns)}


def quarantine_metadata(artifact: Artifact) -> dict[str, Any]:
    """Return the page of the quarantine: the reasons with their counts, examples, and where the rows are."""
    summary = artifact.summary
    examples, others = _examples(summary["first"])
    return {
        "reasons": Table(_reasons(summary), _LOCATIONS),
        "examples": Table(examples, _ROWS),
        "see_any_row": QUARANTINE_HELP,
        "accounts": Table(summary["accounts"], _FILES),
        "where": Table(summary["where"], _LOCATIONS),
        "more_examples": Table(others, _ROWS) if others else None,
        "dagster/row_count": summary["rows"],
        "dagster/column_schema": Columns(QUARANTINE),
    }


def _reasons(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each reason with its number of rows, most frequent first."""
    meanings = {location["code"]: location["meaning"] for location in summary["where"]}
    counts = sorted(summary["reasons"].items(), key=lambda item: -item[1])
    return [{"code": code, "count": count, "meaning": meanings.get(code, "")} for code, count in counts]


def _examples(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return (some rows, the others). The first ones are of different reasons, if there are several."""
    first_of_code = {row["code"]: at for at, row in reversed(list(enumerate(rows)))}
    order = sorted(range(len(rows)), key=lambda at: first_of_code[rows[at]["code"]] != at)
    ordered = [rows[at] for at in order]
    return ordered[:QUARANTINED_EXAMPLES], ordered[QUARANTINED_EXAMPLES:]
