"""What the formats with conversations share: the turns of a row, its system prompt and its tools."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.tables.formats.arrow_schema import MESSAGES
from ft_pipeline.tables.formats.base import Column, Field
from ft_pipeline.tables.formats.read_turns import read_turns
from ft_pipeline.tables.formats.tools import check_calls, read_tools
from ft_pipeline.tables.formats.turns import Message, in_order, is_trained
from ft_pipeline.tables.reading.describe import describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

CONVERSATIONS = Field("conversations", "The turns as {from, value}", has_turns=True)
TURNS = Field("messages", "The turns as {role, content, …}", has_turns=True)
SYSTEM = Field("system", "The system prompt, if no turn has it")
TOOL_FIELDS = (
    Field("tools", "The declared tools: a list, or its JSON text"),
    Field("functions", "The declared tools, in OpenAI's older form"),
)
CONTEXT_KEYS = frozenset({"system", "tools", "functions"})
"""The keys beside the turns that a conversation is made from."""


def messages_column(*sources: str) -> Column:
    """Return the column of a conversation that ends with an answer."""
    return Column(
        "messages",
        "The turns as {role, content, …}: [system], then alternating user and assistant, assistant last",
        MESSAGES,
        sources=sources,
        is_prompt=True,
        is_answer=True,
    )


def turn_list(value: Mapping[str, Any]) -> list[Any] | Fault:
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


def read_conversation(
    value: Mapping[str, Any], raw: list[Any], sidecar: Sidecar, last: str, *, may_repeat: bool = False
) -> tuple[list[Message], str | None] | Fault:
    """Return (turns, tools as JSON text or None), or the fault of the row.

    raw: its unread turns. last: the role of the last turn, user or assistant. may_repeat: see in_order.
    """
    turns = read_turns(raw, sidecar)
    if isinstance(turns, Fault):
        return turns
    turns = _with_system(value.get("system"), turns)
    if isinstance(turns, Fault):
        return turns
    tools = read_tools(value) or read_tools({"tools": sidecar.tools})
    if isinstance(tools, Fault):
        return tools
    ordered = check_calls(turns, tools) or in_order(turns, last, sidecar.allow, may_repeat=may_repeat)
    return ordered if isinstance(ordered, Fault) else (ordered, tools)


def read_answered(
    value: Mapping[str, Any], raw: list[Any], sidecar: Sidecar, *, may_repeat: bool = False
) -> tuple[list[Message], str | None] | Fault:
    """Return read_conversation of a row that ends with an answer, of which at least one is trained; or its fault."""
    conversation = read_conversation(value, raw, sidecar, last="assistant", may_repeat=may_repeat)
    if not isinstance(conversation, Fault) and not any(map(is_trained, conversation[0])):
        return Fault("no_trained_turn", "every answer has the weight 0, so that none is trained; remove the row")
    return conversation


def _with_system(system: Any, turns: list[Message]) -> list[Message] | Fault:
    if not isinstance(system, str | None):
        return Fault("wrong_type", f"`system` is {describe_value(system)}; it must be a text")
    if system is None or is_empty(system):
        return turns
    if turns and turns[0]["role"] == "system":
        if turns[0]["content"].strip() == system.strip():
            return turns
        return Fault("unsupported_shape", "the row has `system` and a system turn that differ; keep one")
    return [{"role": "system", "content": system}, *turns]
