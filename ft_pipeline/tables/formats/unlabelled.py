"""Unlabelled rows: prompts without an answer, perhaps with a reference. A teacher model answers them."""

from typing import Any

from ft_pipeline.tables.formats.alpaca import HISTORY, INPUT, INSTRUCTION, SYSTEM, context_of, instruction_messages
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS
from ft_pipeline.tables.formats.base import TAGS_FIELD, Column, Field, Format, Record, not_text
from ft_pipeline.tables.formats.conversation import CONVERSATIONS, TOOL_FIELDS, TURNS, read_conversation, turn_list
from ft_pipeline.tables.formats.tools import json_text
from ft_pipeline.tables.reading.describe import describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

REFERENCE_KEYS = ("reference", "reference_answer", "ground_truth", "target")
"""The keys of the right answer in rows for reinforcement; the first one that a row has is read."""


def convert_unlabelled(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return the turns of a prompt, its tools and its reference, or the fault of the row."""
    reference = _reference(value)
    if isinstance(reference, Fault):
        return reference
    turns_given = value.get("conversations") is not None or value.get("messages") is not None
    if value.get("instruction") is not None or ("instruction" in value and not turns_given):
        turns = _unlabelled_instruction(value, sidecar)
        return turns if isinstance(turns, Fault) else (turns, None, reference)
    raw = turn_list(value)
    if isinstance(raw, Fault):
        if raw.code == "missing_conversations":
            return Fault("missing_instruction", missing_message(value, "instruction"))
        return raw
    conversation = read_conversation(value, raw, sidecar, last="user")
    return conversation if isinstance(conversation, Fault) else (*conversation, reference)


def _reference(value: dict[str, Any]) -> str | Fault | None:
    """Return the reference as a text: one that is not a text, as compact JSON."""
    found = next((value[key] for key in REFERENCE_KEYS if value.get(key) is not None), None)
    if found is None or isinstance(found, str):
        return None if found is None or is_empty(found) else found
    text = json_text(found)
    return Fault("wrong_type", f"the reference is {describe_value(found)}; write a text") if text is None else text


def _unlabelled_instruction(value: dict[str, Any], sidecar: Sidecar) -> Any:
    """Return the turns of a row with an instruction, or its fault."""
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
    return instruction_messages(value["instruction"], value.get("input") or "", *context)


_CONTEXT = frozenset({"input", "history"})
_TOOLS = tuple(field.name for field in TOOL_FIELDS)
FORMAT = Format(
    name="unlabelled",
    description="Prompts without answers, for the teacher.",
    raw_row="`instruction` and optional `input`, or a conversation that ends with the human; optional `reference`",
    fields=(
        *(INSTRUCTION, INPUT, SYSTEM, HISTORY, CONVERSATIONS, TURNS, *TOOL_FIELDS),
        *(Field(key, "The right answer, by which a teacher's answer is checked") for key in REFERENCE_KEYS),
        TAGS_FIELD,
    ),
    columns=(
        Column(
            "messages",
            "The turns as {role, content, …}: a prompt for the teacher, ending with the user",
            MESSAGES,
            sources=("instruction", "input", "system", "history", "conversations", "messages", *_TOOLS),
            is_prompt=True,
        ),
        TOOLS,
        Column("reference", "The right answer, or null", sources=REFERENCE_KEYS, nullable=True),
        TAGS,
    ),
    required=(frozenset({"instruction"}), frozenset({"conversations"}), frozenset({"messages"})),
    precedence=(
        ("instruction", frozenset({"conversations", "messages", *_TOOLS})),
        ("conversations", _CONTEXT | {"messages"}),
        ("messages", _CONTEXT),
    ),
    checks=("too_long",),
    convert=convert_unlabelled,
)
