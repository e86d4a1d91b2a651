"""Values in the words of an error message."""

from collections.abc import Mapping
from typing import Any


class BadNumber:
    """NaN, an infinity, or an integer too long to be meant: never text, so `wrong_type` wherever it is used."""

    def __init__(self, written: str) -> None:
        self.written = written

    def __repr__(self) -> str:
        return "a number that JSON does not know"


def shorten(text: str, limit: int = 40) -> str:
    """A value for a message: quoted, on one line, cut, and printable."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def kind_of(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), "neither text nor list")


def describe_value(value: Any) -> str:
    """What a value is, and what it says or holds: `a number (42)`, `a list of 3`."""
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
    """The keys of a row (or a turn) that hold something, for a message."""
    names = [shorten(key) for key, item in row.items() if item is not None]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "no key at all"


def missing_message(value: Mapping[str, Any], name: str) -> str:
    """No such column: what there is, and how another name is mapped."""
    if name in value:
        return f"`{name}` is null; write it, or remove the row"
    return (
        f"there is no `{name}`; the row has {describe_keys(value)}. Add it, or map a column in a sidecar: "
        f"`columns: {{THEIRS: {name}}}`"
    )


def describe_empty(text: str | None) -> str:
    """How a text is empty."""
    if text is None:
        return "null"
    return "empty" if not text else f"nothing but white space ({shorten(text, 12)})"


def _cut(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
