"""Descriptions of values for error messages."""

from collections.abc import Mapping
from typing import Any


class BadNumber:
    """NaN, an infinity, or an integer with too many digits. It is not a text, so every use of it is a `wrong_type`."""

    def __init__(self, written: str) -> None:
        self.written = written

    def __repr__(self) -> str:
        return "a number that JSON does not know"


def shorten(text: str, limit: int = 40) -> str:
    """Return the text for a message: quoted, on one line, shortened and printable."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def kind_of(value: Any) -> str:
    """Return the kind of a value, in terms of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), "neither text nor list")


def describe_value(value: Any) -> str:
    """Return the kind and the content of a value: `a number (42)`, `a list of 3`."""
    if isinstance(value, BadNumber):
        return f"no number that JSON knows ({shorten(value.written, 20)})"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {describe_keys(value)}"
    if isinstance(value, str):
        return f"a text ({shorten(value)})"
    kind = kind_of(value)
    return f"{kind} ({_cut(str(value).lower())})" if isinstance(value, int | float) else kind


def describe_keys(row: Mapping[str, Any]) -> str:
    """Return the keys of a row (or a turn) that have a value, for a message."""
    names = [shorten(key) for key, item in row.items() if item is not None]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "no key at all"


def missing_message(value: Mapping[str, Any], name: str) -> str:
    """Return the message for a missing column: which keys the row has, and how to map another name."""
    if name in value:
        return f"`{name}` is null; write it, or remove the row"
    return (
        f"there is no `{name}`; the row has {describe_keys(value)}. Add it, or map a column in a sidecar: "
        f"`columns: {{THEIRS: {name}}}`"
    )


def describe_empty(text: str | None) -> str:
    """Return the way in which a text is empty: null, empty or only white space."""
    if text is None:
        return "null"
    return "empty" if not text else f"nothing but white space ({shorten(text, 12)})"


def _cut(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
