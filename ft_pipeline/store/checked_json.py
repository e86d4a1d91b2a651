"""Read JSON files that anybody who can write to the store may have planted: a document with the expected types, or an
error that callers expect. Never a RecursionError, a document of another type, or a wait for a pipe."""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class _Limits:
    """Limits of a value. pydantic asks for them when it reads the first document: what only opens a store needs no
    pydantic."""

    def __init__(self, kind: str, **limits: Any) -> None:
        self.kind, self.limits = kind, limits

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return getattr(core_schema, f"{self.kind}_schema")(**self.limits)


Digest = Annotated[str, _Limits("str", pattern=r"^[0-9a-f]{64}$")]
"""A hex SHA-256, which may be part of a path."""
KindName = Annotated[str, _Limits("str", pattern=r"^[a-z][a-z0-9_]{0,99}$")]
"""A kind of artifact, which is part of a path."""
Number = Annotated[int, _Limits("int", ge=0, lt=10**18)]
"""A number of a record or of bytes."""


class UnreadableJson(ValueError):
    """A file is not JSON of the expected types. The message says why."""


def read_checked(path: Path, shape: Any) -> Any:
    """Return the JSON document in a file, as json.loads does. shape: the type that it must have, such as a dataclass,
    whose keys may be missing if they have a default. Other keys are not looked at.

    Raises UnreadableJson, or OSError if the file is missing or cannot be opened.
    """
    if path.exists() and not path.is_file():
        raise UnreadableJson("it is not a regular file")
    return parse_checked(path.read_bytes(), shape)


def parse_checked(content: bytes, shape: Any) -> Any:
    """Return the JSON document in `content`. shape, errors: as for read_checked."""
    from pydantic import ValidationError

    try:
        _adapter(shape).validate_json(content, strict=True)
        return json.loads(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise UnreadableJson(f"{where}: {fault['msg']}" if where else fault["msg"]) from None
    except (ValueError, RecursionError) as error:
        raise UnreadableJson(f"it is not JSON ({type(error).__name__})") from None


@cache
def _adapter(shape: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(shape)
