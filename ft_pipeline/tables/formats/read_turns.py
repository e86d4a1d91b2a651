"""Reads turns in the shapes that people have: ShareGPT's {from, value} and OpenAI's {role, content, tool_calls, …}."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.tables.formats.tools import calls_in_text, read_calls
from ft_pipeline.tables.formats.turns import Message
from ft_pipeline.tables.reading.describe import describe_keys, describe_value, shorten
from ft_pipeline.tables.reading.sidecar import Sidecar, rename
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

_TEXTS = {"text": "content", "reasoning": "reasoning_content"}


ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""The roles that need no sidecar, and the roles that they become. Case-sensitive."""
OPENAI_ROLES: Mapping[str, str] = {"developer": "system", "tool": "tool", "function": "tool"}
"""The other roles of turns that have the key `role`."""
TARGETS: Mapping[str, str] = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "tool": "tool",
    "call": "assistant",
}
"""The roles that a sidecar may map to, and the roles that they become. The text of `call` is a call of a tool."""
READ_KEYS = frozenset({"from", "role", "value", "content", "name", "weight", "loss_weight"}) | {
    *("reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "tool_call_id")
}
"""The turn keys that are used. Other keys are dropped and listed once per file."""
MODEL_KEYS = frozenset({"reasoning_content", "reasoning", "refusal", "tool_calls", "function_call"}) | {
    *("weight", "loss_weight")
}
"""The turn keys that are used only in turns of the model."""
_TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of content parts whose text is read."""


def read_turns(raw: list[Any], sidecar: Sidecar) -> list[Message] | Fault:
    """Return turns with any of the common key names as arrow_schema.MESSAGES has them, without null keys; or the first
    fault."""
    messages: list[Message] = []
    for number, turn in enumerate(raw, 1):
        if not isinstance(turn, dict):
            return Fault(
                "wrong_type", f"turn {number} is {describe_value(turn)}; it must be an object with `from` and `value`"
            )
        if sidecar.columns:
            turn = rename(turn, sidecar)
        turn = without_values(turn, number)
        message = turn if isinstance(turn, Fault) else _read_turn(turn, number, sidecar.roles)
        if isinstance(message, Fault):
            return message
        messages.append(message)
    return messages


def _read_turn(turn: dict[str, Any], number: int, mapped: Mapping[str, str]) -> Message | Fault:
    speaker_key, text_key = ("from", "value") if turn.get("from") is not None else ("role", "content")
    speaker = turn.get(speaker_key)
    if speaker is None:
        return Fault("missing_from", f"turn {number} has no `from`; it has {describe_keys(turn)}")
    if not isinstance(speaker, str):
        return Fault("wrong_type", f"`{speaker_key}` of turn {number} is {describe_value(speaker)}; it must be a text")
    known = {**ROLES, **(OPENAI_ROLES if speaker_key == "role" else {})}
    role = TARGETS[mapped[speaker]] if speaker in mapped else known.get(speaker)
    text = _read_text(turn, number, text_key, role)
    if isinstance(text, Fault):
        return text
    if role is None:
        return Fault(
            "unknown_role",
            f"turn {number} has the role {shorten(speaker)}; known are human, gpt, system. A sidecar can map it: "
            f"`roles: {{{_yaml_key(speaker)}: {guess_target(speaker)}}}` (human, gpt, system, tool or call)",
        )
    if text is None and not (role == "assistant" and _has_calls(turn)):
        return Fault("missing_value", f"turn {number} has no `{text_key}`; it has {describe_keys(turn)}")
    message: Message = {"role": role, "content": text or ""}
    if role == "assistant":
        return _read_model_turn(message, turn, number, is_call=mapped.get(speaker) == "call")
    if is_empty(message["content"]) and not (role == "tool" and speaker_key == "role"):  # a tool may return nothing
        return _empty(number, speaker)
    return _with_texts(message, turn, number, ("name", "tool_call_id") if role == "tool" else ("name",))


def _empty(number: int, speaker: str) -> Fault:
    return Fault("empty_value", f"turn {number} ({speaker}) is empty; write it, or remove the row")


def _has_calls(turn: Mapping[str, Any]) -> bool:
    return bool(turn.get("tool_calls") or turn.get("function_call"))


def _read_text(turn: Mapping[str, Any], number: int, key: str, role: str | None) -> str | Fault | None:
    """Return the text of a turn, None if it has none, or the fault. A refusal is the text of an answer."""
    content = turn.get(key)
    if content is None:
        key, content = next(
            ((name, turn[name]) for name in ("value", "content") if turn.get(name) is not None), (key, None)
        )
    if isinstance(content, list):
        content = _read_parts(content, number)
        if isinstance(content, Fault):
            return content
    if not isinstance(content, str | None):
        return Fault("wrong_type", f"`{key}` of turn {number} is {describe_value(content)}; it must be a text")
    refusal = turn.get("refusal") if role == "assistant" else None
    if not isinstance(refusal, str | None):
        return Fault("wrong_type", f"`refusal` of turn {number} is {describe_value(refusal)}; it must be a text")
    if refusal and not is_empty(refusal):
        if content and not is_empty(content):
            return Fault("unsupported_shape", f"turn {number} has `{key}` and `refusal`; keep one")
        return refusal
    return content


def _read_parts(parts: list[Any], number: int) -> str | Fault | None:
    """Return the text parts of a turn, one on a line each, as chat templates of text models get them."""
    texts = []
    for position, part in enumerate(parts, 1):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part if isinstance(part, str) else part.get(kind if kind == "refusal" else "text") if kind else None
        if not isinstance(part, str) and kind not in (*_TEXT_PARTS, "refusal"):
            what = f"of the type {shorten(str(kind))}" if kind else describe_value(part)
            return Fault(
                "unsupported_content", f"part {position} of turn {number} is {what}; only text is read: remove the row"
            )
        if not isinstance(text, str):
            has = (
                f"{describe_value(text)} as its `text`"
                if "text" in part
                else f"no `text`; it has {describe_keys(part)}"
            )
            return Fault("wrong_type", f"part {position} of turn {number} has {has}; write a text")
        texts.append(text)
    return "\n".join(texts) if texts else None


def _read_model_turn(message: Message, turn: dict[str, Any], number: int, *, is_call: bool) -> Message | Fault:
    """Add the keys that only a model's turn has, or return the fault in them."""
    calls = calls_in_text(message["content"], number) if is_call else read_calls(turn, number)
    if isinstance(calls, Fault):
        return calls
    if is_call or (calls and is_empty(message["content"])):
        message["content"] = ""
    if calls:
        message["tool_calls"] = calls
    elif is_empty(message["content"]):
        return _empty(number, turn.get("from") or turn["role"])
    if "<think>" in message["content"] and "</think>" not in message["content"]:
        return Fault("answer_cut_off", f"turn {number} opens `<think>` and never closes it; remove the row")
    key = "reasoning_content" if turn.get("reasoning_content") is not None else "reasoning"
    thoughts = turn.get(key)
    if not isinstance(thoughts, str | None):
        return Fault("wrong_type", f"`{key}` of turn {number} is {describe_value(thoughts)}; it must be a text")
    if thoughts is not None and not is_empty(thoughts):
        message["reasoning_content"] = thoughts
    named = _with_texts(message, turn, number, ("name",))
    return named if isinstance(named, Fault) else _with_weight(named, turn, number)


def _with_texts(message: Message, turn: Mapping[str, Any], number: int, names: tuple[str, ...]) -> Message | Fault:
    """Add keys whose values are short texts, or return the fault in them."""
    for name in names:
        text = turn.get(name)
        if not isinstance(text, str | None):
            return Fault("wrong_type", f"`{name}` of turn {number} is {describe_value(text)}; it must be a text")
        if text:
            message[name] = text
    return message


def _with_weight(message: Message, turn: Mapping[str, Any], number: int) -> Message | Fault:
    key = "weight" if turn.get("weight") is not None else "loss_weight"
    weight = turn.get(key)
    if weight is None:
        return message
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        return Fault(
            "wrong_type",
            f"`{key}` of turn {number} is {describe_value(weight)}; it must be 0 (shown, not trained) or 1",
        )
    if 0 < weight < 1:
        return Fault(
            "unsupported_shape",
            f"turn {number} has the weight {weight:g}; only 0 (shown, not trained) and 1 are read",
        )
    return message if weight else {**message, "weight": 0.0}


def guess_target(speaker: str) -> str:
    """Return the most likely target of an unknown role."""
    lower = speaker.lower()
    if "call" in lower:
        return "call"
    role = ROLES.get(lower)
    if role is None:
        role = "tool" if any(word in lower for word in ("tool", "func", "observ")) else "assistant"
    return next(ours for ours, mapped in TARGETS.items() if mapped == role)


def _yaml_key(name: str) -> str:
    return name if name.replace("_", "").isalnum() else shorten(name)


def without_values(turn: dict[str, Any], number: int) -> dict[str, Any] | Fault:
    """Return a turn as OpenAI has it, or the fault in its parts. Other turns are returned unchanged.

    Texts are joined without a break, as their trainer does it.
    """
    parts = turn.get("content")
    if not isinstance(parts, list) or not any(isinstance(part, dict) and "value" in part for part in parts):
        return turn
    texts: dict[str, str] = {}
    calls: list[Any] = []
    for position, part in enumerate(parts, 1):
        kind, value = (part.get("type"), part.get("value")) if isinstance(part, dict) else (None, None)
        what = f"part {position} of turn {number}"
        if kind not in (*_TEXTS, "tool_call"):
            named = f"of the type {shorten(str(kind))}" if kind else describe_value(part)
            return Fault("unsupported_content", f"{what} is {named}; only text is read: remove the row")
        if not isinstance(value, str):
            has = f"{describe_value(value)} as its `value`" if "value" in part else f"only {describe_keys(part)}"
            return Fault("wrong_type", f"{what} has {has}; write a text as its `value`")
        if kind == "tool_call":
            read = calls_in_text(value, number)
            if isinstance(read, Fault):
                return read
            calls += read
        else:
            texts[_TEXTS[kind]] = texts.get(_TEXTS[kind], "") + value
    return {**turn, "content": None, **texts, **({"tool_calls": calls} if calls else {})}
