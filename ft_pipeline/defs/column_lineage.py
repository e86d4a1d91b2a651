"""Column lineage: the fields of the assets that each column is made from, back to the fields of the raw files.

Lineage shows how a column is made from others, row by row. Whether a row is in a table at all is decided by the
table's code, and documented in its quarantine.
"""

from collections.abc import Collection, Mapping, Sequence

import dagster as dg

from ft_pipeline.tables.checks.content_checks import DESCRIPTIONS
from ft_pipeline.tables.formats.registry import READ_KEYS

Column = tuple[str, str]
"""(asset, column)."""
Lineage = Mapping[str, Sequence[Column]]
"""A table's column → the columns that it is made from."""

FIELDS = {
    "instruction": "What the person asks",
    "input": "What the instruction is applied to",
    "output": "The answer to learn",
    "system": "The system prompt of the row",
    "history": "Earlier turns as [question, answer] pairs",
    "conversations": "The turns as {from, value}",
    "messages": "The turns as {role, content}",
    "text": "A passage",
    "prompt": "The question, or the turns before the answer",
    "chosen": "The preferred answer, or all turns up to it",
    "rejected": "The other answer, or all turns up to it",
}
"""The fields that a raw row may have; formats.md lists those that each format needs."""
FROM_SEVERAL: Mapping[str, Mapping[str, Collection[str]]] = {
    "sharegpt": {"messages": READ_KEYS["sharegpt"]},
    "preferences": {
        "prompt_messages": READ_KEYS["preferences"],
        "chosen": {"chosen"},
        "rejected": {"rejected"},
    },
    "unlabelled": {"messages": READ_KEYS["unlabelled"]},
}
"""Table → column → the fields that it may be made from. Any other column has the name of its field."""
TOKENS = {
    "id": ("str", "The row's id in its table"),
    "source": ("str", "human, distilled, preference, text or replay"),
    "input_ids": ("list<int>", "The tokens that the model reads"),
    "labels": ("list<int>", "The token where it is trained, -100 elsewhere"),
    "rejected_ids": ("list<int>", "For a pair: the prompt and the rejected answer"),
    "rejected_labels": ("list<int>", "For a pair: the rejected answer's tokens, -100 elsewhere"),
}
"""The columns of `training_data`: type and content."""
ANSWERS = {
    "id": ("str", "The prompt's id in `unlabelled`"),
    "prompt_messages": ("list<{role, content}>", "The prompt that the teacher received"),
    "answer": ("str", "The teacher's answer"),
    "file": ("str", "The prompt's file"),
    "row": ("int", "The prompt's row number in the file"),
}
"""Columns of `teacher_answers` with the prompt and its answer, and those that locate the prompt."""
ORIGIN = ("file", "row")
SAID = {"alpaca": tuple(DESCRIPTIONS["alpaca"]), "sharegpt": ("messages",)}
"""The message columns of the tables that conversations are made from."""


def raw_schema(data_format: str) -> list[tuple[str, str, str]]:
    """Return (field, type, description) of the fields that a raw row of a format may have under their own names."""
    return [(name, "json", FIELDS[name]) for name in FIELDS if name in READ_KEYS[data_format]]


def table_lineage(data_format: str, mapped: Mapping[str, str]) -> Lineage:
    """Return the lineage of a table. mapped: foreign column → field, from the sidecars."""
    raw = f"raw_{data_format}"
    lineage: dict[str, list[Column]] = {}
    for column in DESCRIPTIONS[data_format]:
        fields = sorted(FROM_SEVERAL.get(data_format, {}).get(column, {column}))
        foreign = sorted(name for name, field in mapped.items() if field in fields)
        lineage[column] = [(raw, name) for name in [*fields, *foreign]]
    return {**lineage, "id": [(raw, name) for name in sorted(READ_KEYS[data_format])]}


def conversations_lineage() -> Lineage:
    """Return the lineage of `conversations`."""
    asked = [("alpaca", name) for name in ("instruction", "input", "history")] + [("sharegpt", "messages")]
    same = {name: [(table, name) for table in SAID] for name in ("id", *ORIGIN)}
    messages = [(table, name) for table, names in SAID.items() for name in names]
    return {"messages": messages, "split": asked, "group": asked, **same}


def answers_lineage() -> Lineage:
    """Return the lineage of `teacher_answers`: an answer depends on its prompt, and on the examples before it."""
    prompt = [("unlabelled", "messages")]
    same = {name: [("unlabelled", name)] for name in ("id", *ORIGIN)}
    return {"prompt_messages": prompt, "answer": [*prompt, ("conversations", "messages")], **same}


def distilled_lineage() -> Lineage:
    """Return the lineage of `distilled`."""
    messages = [("teacher_answers", name) for name in ("prompt_messages", "answer")]
    same = {name: [("teacher_answers", name)] for name in ORIGIN}
    return {"messages": messages, "id": messages, "group": messages[:1], **same}


def column_lineage(lineage: Lineage) -> dg.TableColumnLineage:
    """Convert a lineage to Dagster's type."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(asset), name) for asset, name in sources]
            for column, sources in lineage.items()
        }
    )
