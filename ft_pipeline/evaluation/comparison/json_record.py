"""Frozen dataclasses that are written as JSON and read back. Each field is a key; the order is that of the class."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, Self


@dataclass(frozen=True)
class JsonRecord:
    """A record. Its fields are plain values, records, and sequences or mappings of them."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the record of a JSON object. Keys that are not fields are ignored.

        Raises ValueError if a key without a default is missing, or if the document is not such an object.
        """
        try:
            return typing.cast(Self, _from_json(cls, document))
        except (AttributeError, TypeError) as error:
            raise ValueError(f"not the JSON of a {cls.__name__}: {error}") from error


def _from_json(hint: Any, value: Any) -> Any:
    """Return a JSON value converted to its type hint."""
    if value is None:
        return None
    if isinstance(hint, type) and is_dataclass(hint):
        return hint(
            **{name: _from_json(field_hint, value[name]) for name, field_hint in _hints(hint).items() if name in value}
        )
    arguments, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is Sequence:
        return [_from_json(arguments[0], item) for item in value]
    if origin is Mapping:
        return {key: _from_json(arguments[1], item) for key, item in value.items()}
    return _from_json(arguments[0], value) if type(None) in arguments else value  # X | None


@lru_cache
def _hints(record: Any) -> dict[str, Any]:
    """Return the type hints of a record class by field."""
    hints = typing.get_type_hints(record)
    return {entry.name: hints[entry.name] for entry in fields(record)}
