"""Frozen dataclasses that are written as JSON and read back. Each field is a key; the order is that of the class."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import TypeAdapter


@dataclass(frozen=True)
class JsonRecord:
    """A record of a document of version 1. Keys that are not fields are ignored."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the record of a JSON object. Raises ValueError if the document is not one."""
        return TypeAdapter(cls).validate_python(document)
