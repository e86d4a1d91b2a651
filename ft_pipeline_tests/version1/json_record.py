"""Frozen dataclasses that are written as JSON and read back. Each field is a key; the order is that of the class."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from pydantic import TypeAdapter


@dataclass(frozen=True)
class JsonRecord:
    """A record of a document of version 1. Keys that are not fields are ignored."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the record of a JSON object. Raises ValueError if the document is not one."""
        found: Self = _adapter(cls).validate_python(document)
        return found


@cache
def _adapter(record: type[JsonRecord]) -> TypeAdapter[Any]:
    """Made once per class: simulated worlds read thousands of records."""
    return TypeAdapter(record)


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, below lists and dicts, too. `asdict` copies each number, for thrice the time."""
    if isinstance(value, (str, float, int, type(None))):
        return value
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
