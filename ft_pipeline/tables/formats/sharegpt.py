"""ShareGPT rows: a list of turns that ends with an answer."""

from typing import Any

from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS
from ft_pipeline.tables.formats.base import TAGS_FIELD, Column, Field, Format, Record
from ft_pipeline.tables.formats.turns import check_order, is_trained, read_turns
from ft_pipeline.tables.reading.describe import describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault


def convert_sharegpt(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return the turns of a row, or its fault."""
    raw = turn_list(value)
    if isinstance(raw, Fault):
        return raw
    turns = read_turns(raw, sidecar)
    if isinstance(turns, Fault):
        return turns
    fault = check_order(turns, last="assistant")
    if fault is None and not any(map(is_trained, turns)):
        fault = Fault("no_trained_turn", "every answer has the weight 0, so that none is trained; remove the row")
    return fault or (turns,)


def turn_list(value: dict[str, Any]) -> list[Any] | Fault:
    """Return the unread turns of a row, or the fault of the row."""
    name = "conversations" if "conversations" in value else "messages"
    if name not in value:
        return Fault("missing_conversations", missing_message(value, "conversations"))
    turns = value[name]
    if turns is None or turns == []:
        return Fault(
            "empty_conversation", f"`{name}` is {'null' if turns is None else 'an empty list'}; remove the row"
        )
    if not isinstance(turns, list):
        return Fault("wrong_type", f"`{name}` is {describe_value(turns)}; it must be a list of turns")
    return turns


CONVERSATIONS = Field("conversations", "The turns as {from, value}", has_turns=True)
TURNS = Field("messages", "The turns as {role, content}", has_turns=True)
FORMAT = Format(
    name="sharegpt",
    description="Multi-turn conversations.",
    raw_row="`conversations`: list of `{from, value}`; common synonyms are mapped",
    fields=(CONVERSATIONS, TURNS, TAGS_FIELD),
    columns=(
        Column(
            "messages",
            "The turns as {role, content, …}: [system], then alternating user and assistant, assistant last",
            MESSAGES,
            sources=("conversations", "messages"),
            is_prompt=True,
            is_answer=True,
        ),
        TOOLS,
        TAGS,
    ),
    required=(frozenset({"conversations"}), frozenset({"messages"})),
    main_keys=frozenset({"conversations", "messages"}),
    signs=frozenset({"conversations", "messages"}),
    precedence=(("conversations", frozenset({"messages"})),),
    checks=("too_long", "echoed_turn"),
    convert=convert_sharegpt,
    is_conversational=True,
)
