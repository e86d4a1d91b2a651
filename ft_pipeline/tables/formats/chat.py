"""Chat rows, as hosted providers take them: OpenAI's messages with tools, or a prompt and a completion."""

from typing import Any

from ft_pipeline.tables.formats.arrow_schema import TAGS, TOOLS
from ft_pipeline.tables.formats.base import GROUP_FIELD, TAGS_FIELD, Field, Format, Record
from ft_pipeline.tables.formats.conversation import (
    CONTEXT_KEYS,
    SYSTEM,
    TOOL_FIELDS,
    TURNS,
    messages_column,
    read_answered,
    turn_list,
)
from ft_pipeline.tables.formats.unlabelled import REFERENCE_KEYS
from ft_pipeline.tables.reading.describe import describe_value, shorten
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault


def convert_chat(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return the turns and tools of a row, or its fault."""
    raw = turn_list(value) if "messages" in value or "prompt" not in value else prompt_and_completion(value)
    if isinstance(raw, Fault):
        return raw
    conversation = read_answered(value, raw, sidecar, may_repeat=True)
    reference = next((key for key in REFERENCE_KEYS if value.get(key) is not None), None)
    if isinstance(conversation, Fault) and conversation.code == "last_turn_not_gpt" and reference:
        return Fault(
            "wrong_format",
            f"a row for reinforcement: a prompt without an answer, with {shorten(reference)}; move it to "
            "data/raw/unlabelled for a teacher, or add the reference as the last turn for `objective: grpo`",
        )
    return conversation


def prompt_and_completion(value: dict[str, Any]) -> list[Any] | Fault:
    """Return the unread turns of a prompt and its completion. Each is a text, or a list of turns."""
    turns: list[Any] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        part = value.get(name)
        if not isinstance(part, str | list):
            return Fault("wrong_type", f"`{name}` is {describe_value(part)}; it must be a text or a list of turns")
        turns += [{"role": role, "content": part}] if isinstance(part, str) else part
    return turns


FORMAT = Format(
    name="chat",
    description="Conversations in the shape of hosted providers, with tools.",
    raw_row="`messages`: list of `{role, content, tool_calls, …}`, and optional `tools`; or `prompt` and `completion`",
    fields=(
        TURNS,
        Field("prompt", "The question, or the turns before the answer", has_turns=True),
        Field("completion", "The answer to `prompt`", has_turns=True),
        SYSTEM,
        *TOOL_FIELDS,
        GROUP_FIELD,
        TAGS_FIELD,
    ),
    columns=(messages_column("messages", "prompt", "completion", *sorted(CONTEXT_KEYS)), TOOLS, TAGS),
    required=(frozenset({"messages"}), frozenset({"prompt", "completion"})),
    signs=frozenset({"messages", "completion"}),
    precedence=(("messages", frozenset({"prompt", "completion"})),),
    checks=("too_long", "echoed_turn"),
    convert=convert_chat,
    is_optional=True,
)
