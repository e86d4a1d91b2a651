"""Turns of LLaMA-Factory v1, whose text, reasoning and calls are parts {type, value}, in OpenAI's shape."""

from typing import Any

from ft_pipeline.tables.formats.tools import calls_in_text
from ft_pipeline.tables.reading.describe import describe_keys, describe_value, shorten
from ft_pipeline.tables.reason_codes import Fault

_TEXTS = {"text": "content", "reasoning": "reasoning_content"}


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
