"""Column lineage: from which fields of which assets each column is made, back to the fields of the raw files.

Where one column was made of others row by row; what decides whether a row stands in a table at all is in its code and
its quarantine.
"""

from collections.abc import Collection, Mapping, Sequence

import dagster as dg

from ft_pipeline.tables.checks.content_checks import DESCRIPTIONS
from ft_pipeline.tables.formats.registry import READ_KEYS

Column = tuple[str, str]
"""(asset, column)."""
Lineage = Mapping[str, Sequence[Column]]
"""A table's column → what it is made of."""

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
"""What a raw row may hold; formats.md says which of it a format needs."""
FROM_SEVERAL: Mapping[str, Mapping[str, Collection[str]]] = {
    "sharegpt": {"messages": READ_KEYS["sharegpt"]},
    "preferences": {
        "prompt_messages": READ_KEYS["preferences"],
        "chosen": {"chosen"},
        "rejected": {"rejected"},
    },
    "unlabelled": {"messages": READ_KEYS["unlabelled"]},
}
"""Table → column → the fields that it may be made of; the other columns bear the name of their field."""
TOKENS = {
    "id": ("str", "The row's id in its table"),
    "source": ("str", "human, distilled, preference, text or replay"),
    "input_ids": ("list<int>", "The tokens that the model reads"),
    "labels": ("list<int>", "The same where an answer is learned, -100 elsewhere"),
    "rejected_ids": ("list<int>", "Of a pair: prompt and rejected answer"),
    "rejected_labels": ("list<int>", "Of a pair: the rejected answer's tokens, -100 elsewhere"),
}
"""The columns of `training_data`: type, and what they hold."""
ANSWERS = {
    "id": ("str", "The prompt's id in `unlabelled`"),
    "prompt_messages": ("list<{role, content}>", "The prompt, as the teacher was asked"),
    "answer": ("str", "What the teacher said"),
    "file": ("str", "The prompt's file"),
    "row": ("int", "The prompt's row in it"),
}
"""Columns of `teacher_answers` that hold or place what was said."""
ORIGIN = ("file", "row")
SAID = {"alpaca": tuple(DESCRIPTIONS["alpaca"]), "sharegpt": ("messages",)}
"""What was said, in the tables that conversations are made of."""


def raw_schema(data_format: str) -> list[tuple[str, str, str]]:
    """(field, type, description) of what a raw row of a format may hold under its own names."""
    return [(name, "json", FIELDS[name]) for name in FIELDS if name in READ_KEYS[data_format]]


def table_lineage(data_format: str, mapped: Mapping[str, str]) -> Lineage:
    """Of a table. mapped: foreign column → field, as sidecars say."""
    raw = f"raw_{data_format}"
    found: dict[str, list[Column]] = {}
    for column in DESCRIPTIONS[data_format]:
        fields = sorted(FROM_SEVERAL.get(data_format, {}).get(column, {column}))
        foreign = sorted(theirs for theirs, ours in mapped.items() if ours in fields)
        found[column] = [(raw, name) for name in [*fields, *foreign]]
    return {**found, "id": [(raw, name) for name in sorted(READ_KEYS[data_format])]}


def conversations_lineage() -> Lineage:
    """Of `conversations`."""
    asked = [("alpaca", name) for name in ("instruction", "input", "history")] + [("sharegpt", "messages")]
    same = {name: [(table, name) for table in SAID] for name in ("id", *ORIGIN)}
    messages = [(table, name) for table, names in SAID.items() for name in names]
    return {"messages": messages, "split": asked, "group": asked, **same}


def answers_lineage() -> Lineage:
    """Of `teacher_answers`: an answer follows from its prompt, and from the examples before it."""
    prompt = [("unlabelled", "messages")]
    same = {name: [("unlabelled", name)] for name in ("id", *ORIGIN)}
    return {"prompt_messages": prompt, "answer": [*prompt, ("conversations", "messages")], **same}


def distilled_lineage() -> Lineage:
    """Of `distilled`."""
    said = [("teacher_answers", name) for name in ("prompt_messages", "answer")]
    same = {name: [("teacher_answers", name)] for name in ORIGIN}
    return {"messages": said, "id": said, "group": said[:1], **same}


def training_lineage(objective: str, inputs: Collection[str]) -> Lineage:
    """Of `training_data`: conversations, answers of the teacher and texts that are mixed in (sft), pairs (dpo), whose
    second answer has columns of its own, or texts (cpt)."""
    if objective == "dpo":
        prompt, chosen, rejected = (("preferences", name) for name in ("prompt_messages", "chosen", "rejected"))
        better, worse = [prompt, chosen], [prompt, rejected]
        columns = {"input_ids": better, "labels": [chosen], "rejected_ids": worse, "rejected_labels": [rejected]}
        return {"id": [("preferences", "id")], **columns}
    tables = {"conversations": "messages", "distilled": "messages", "text": "text"}
    read = ["text"] if objective == "cpt" else [table for table in tables if table in inputs]
    said = [(table, tables[table]) for table in read]
    return {"id": [(table, "id") for table in read], "input_ids": said, "labels": said}


def column_lineage(lineage: Lineage) -> dg.TableColumnLineage:
    """As Dagster has it."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(asset), name) for asset, name in sources]
            for column, sources in lineage.items()
        }
    )
