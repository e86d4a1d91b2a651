"""Unlabelled rows: prompts without an answer. A teacher model answers them."""

from typing import Any

from ft_pipeline.tables.formats.alpaca import HISTORY, INPUT, INSTRUCTION, SYSTEM, context_of, instruction_messages
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS
from ft_pipeline.tables.formats.base import TAGS_FIELD, Column, Format, Record, not_text
from ft_pipeline.tables.formats.sharegpt import CONVERSATIONS, TURNS, turn_list
from ft_pipeline.tables.formats.turns import check_order, read_turns
from ft_pipeline.tables.reading.describe import missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty


def convert_unlabelled(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return the turns of a prompt, or the fault of the row."""
    turns_given = value.get("conversations") is not None or value.get("messages") is not None
    if value.get("instruction") is not None or ("instruction" in value and not turns_given):
        return _unlabelled_instruction(value, sidecar)
    raw = turn_list(value)
    if isinstance(raw, Fault):
        if raw.code == "missing_conversations":
            return Fault("missing_instruction", missing_message(value, "instruction"))
        return raw
    turns = read_turns(raw, sidecar)
    if isinstance(turns, Fault):
        return turns
    return check_order(turns, last="user") or (turns,)


def _unlabelled_instruction(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    instruction = value["instruction"]
    mapped = "instruction" in sidecar.columns.values()
    if mapped and isinstance(instruction, list) and len(instruction) == 1:
        value = {**value, "instruction": instruction[0]}  # a benchmark's `turns: ["the question"]`
    if fault := not_text(value, ("instruction", "input")):
        return fault
    if value["instruction"] is None or is_empty(value["instruction"]):
        return Fault("missing_instruction", "`instruction` is empty; write the question, or remove the row")
    context = context_of(value)
    if isinstance(context, Fault):
        return context
    return (instruction_messages(value["instruction"], value.get("input") or "", *context),)


_CONTEXT = frozenset({"input", "system", "history"})
FORMAT = Format(
    name="unlabelled",
    description="Prompts without answers, for the teacher.",
    raw_row="`instruction` and optional `input`, or a conversation that ends with the human",
    fields=(INSTRUCTION, INPUT, SYSTEM, HISTORY, CONVERSATIONS, TURNS, TAGS_FIELD),
    columns=(
        Column(
            "messages",
            "The turns as {role, content, …}: a prompt for the teacher, ending with the user",
            MESSAGES,
            sources=("instruction", "input", "system", "history", "conversations", "messages"),
            is_prompt=True,
        ),
        TOOLS,
        TAGS,
    ),
    required=(frozenset({"instruction"}), frozenset({"conversations"}), frozenset({"messages"})),
    main_keys=frozenset({"instruction", "conversations", "messages"}),
    precedence=(
        ("instruction", frozenset({"conversations", "messages"})),
        ("conversations", _CONTEXT | {"messages"}),
        ("messages", _CONTEXT),
    ),
    checks=("too_long",),
    convert=convert_unlabelled,
)
