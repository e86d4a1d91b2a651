"""Column lineage: the fields of the assets that each column is made from, back to the fields of the raw files.

Lineage shows how a column is made from others, row by row. It does not show why a row is missing from a table: that is
listed in `quarantine`.
"""

from collections.abc import Mapping, Sequence

from ft_pipeline.settings.raw_formats import CONVERSATIONAL
from ft_pipeline.tables.formats.arrow_schema import TAGS, TOOLS
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.training.objectives.spec import Column

Sources = Mapping[str, Sequence[Column]]
"""A table's column → the columns that it is made from."""

RAW_ROW_COLUMNS = ("file", "row")
"""Columns that locate the raw row."""
UNCHANGED_COLUMNS = (TOOLS.name, TAGS.name)
"""Columns that go with a row through all tables."""


def raw_schema(data_format: str) -> list[tuple[str, str, str]]:
    """Return (field, type, description) of the fields that a raw row of a format may have under their own names."""
    return [(field.name, "json", field.description) for field in FORMATS[data_format].fields]


def table_lineage(data_format: str, foreign_columns: Mapping[str, str]) -> Sources:
    """Return the lineage of a table. foreign_columns: column in the files → field, from the sidecars."""
    row_format, raw_asset = FORMATS[data_format], f"raw_{data_format}"
    lineage: dict[str, list[Column]] = {}
    for column in row_format.columns:
        fields = sorted((column.name,) if column.sources is None else column.sources)
        names_in_files = sorted(name for name, field in foreign_columns.items() if field in fields)
        if fields:
            # A name in the files may be that of another field: `{conversations: prompt}`.
            lineage[column.name] = [(raw_asset, name) for name in dict.fromkeys([*fields, *names_in_files])]
    return {**lineage, "id": [(raw_asset, name) for name in sorted(row_format.keys - {TAGS.name})]}


def conversations_lineage() -> Sources:
    """Return the lineage of `conversations`."""
    columns = [
        (table, column)
        for table in CONVERSATIONAL
        for column in FORMATS[table].columns
        if column.name not in UNCHANGED_COLUMNS
    ]
    messages = [(table, column.name) for table, column in columns]
    prompt = [(table, column.name) for table, column in columns if column.is_prompt]
    unchanged = {
        name: [(table, name) for table in CONVERSATIONAL] for name in ("id", *UNCHANGED_COLUMNS, *RAW_ROW_COLUMNS)
    }
    return {"messages": messages, "split": prompt, "group": prompt, **unchanged}


def answers_lineage() -> Sources:
    """Return the lineage of `teacher_answers`: an answer depends on its prompt, and on the examples before it."""
    prompt = [("unlabelled", "messages")]
    unchanged = {name: [("unlabelled", name)] for name in ("id", *UNCHANGED_COLUMNS, *RAW_ROW_COLUMNS)}
    return {"prompt_messages": prompt, "answer": [*prompt, ("conversations", "messages")], **unchanged}


def distilled_lineage() -> Sources:
    """Return the lineage of `distilled`."""
    messages = [("teacher_answers", name) for name in ("prompt_messages", "answer")]
    unchanged = {name: [("teacher_answers", name)] for name in (*UNCHANGED_COLUMNS, *RAW_ROW_COLUMNS)}
    return {"messages": messages, "id": messages, "group": messages[:1], **unchanged}
