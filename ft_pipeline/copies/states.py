"""The states of a copy: numbered lists of files, `states/000001.json`, each written after everything that it lists.

The content of a file is the object `objects/ab/<sha256>`. So a copy never overwrites anything: a state that is changed
elsewhere is another number, and a file that is changed is another object. Whoever reads a copy sees a whole state.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from ft_pipeline.copies.places import Place
from ft_pipeline.errors import UserError
from ft_pipeline.store.hashing import canonical_json
from ft_pipeline.store.provenance import user_name

Content = Literal["store", "project"]
"""What a copy is of: a store (`ft store push`), or a whole project (`ft backup`)."""
STATES, OBJECTS = "states", "objects"
FORMAT = 1
_MADE_BY: dict[Content, str] = {"store": "ft store push", "project": "ft backup"}
_READ_BY: dict[Content, str] = {"store": "ft store pull", "project": "ft restore"}
MAX_STATE_BYTES = 1 << 28
"""A list of a million files has about half of that."""
_STATE_NAME = re.compile(rf"{STATES}/([0-9]{{6}})\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CopiedFile:
    """One file in a state."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class State:
    """One complete state of a copy."""

    number: int
    content: Content
    project: str
    """The project's name."""
    made: str
    """UTC, ISO 8601."""
    by: str
    files: Mapping[str, CopiedFile]
    """By the path in the store, or in the project."""


def object_name(sha256: str) -> str:
    """Return the name of the object with this content."""
    return f"{OBJECTS}/{sha256[:2]}/{sha256}"


def newest_state(place: Place, content: Content, number: int | None = None) -> State | None:
    """Return the newest state of a copy, or the one with this number; None if there is none.

    UserError if the state cannot be read, or if the copy is of something else.
    """
    sizes = place.sizes(STATES)
    numbers = sorted(int(match[1]) for name in sizes if (match := _STATE_NAME.fullmatch(name)))
    if number is not None and number not in numbers:
        known = ", ".join(map(str, numbers)) or "none"
        raise UserError(f"{place.address} has no state {number}. Choose one of these: {known}.")
    if not numbers:
        return None
    chosen = numbers[-1] if number is None else number
    name = f"{STATES}/{chosen:06d}.json"
    if sizes[name] > MAX_STATE_BYTES:
        raise UserError(f"{place.address}/{name} is larger than any list of files. Name a backup or a pushed store.")
    try:
        state = _parse(chosen, json.loads(place.read(name)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{place.address}/{name} was changed ({error}). Restore it, or push to another place."
        ) from None
    if state.content != content:
        raise UserError(
            f"{place.address} was written by `{_MADE_BY[state.content]}`. Use `{_READ_BY[state.content]}`, or another "
            "place."
        )
    return state


def write_state(
    place: Place, previous: State | None, content: Content, project: str, files: Mapping[str, CopiedFile]
) -> State:
    """Write the next state, whose objects are all there. UserError if another process wrote one since `previous`."""
    number = previous.number + 1 if previous else 1
    made = datetime.now(UTC).isoformat(timespec="seconds")
    state = State(number, content, project, made, user_name(), files)
    document = {
        "format": FORMAT,
        "content": content,
        "project": project,
        "made": made,
        "by": state.by,
        "files": {name: [file.sha256, file.bytes] for name, file in sorted(files.items())},
    }
    if not place.create(f"{STATES}/{number:06d}.json", canonical_json(document)):
        raise UserError(f"Somebody else wrote to {place.address} at the same time. Run again.")
    return state


def _parse(number: int, document: dict[str, Any]) -> State:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}, which this version does not know")
    if document["content"] not in _MADE_BY:
        raise ValueError(f"content {document['content']!r}")
    files = {}
    for name, (sha256, size) in document["files"].items():
        if not (_is_plain(name) and _SHA256.fullmatch(sha256) and type(size) is int and size >= 0):
            raise ValueError(f"the entry {name!r}")
        files[name] = CopiedFile(sha256, size)
    return State(
        number, document["content"], str(document["project"]), str(document["made"]), str(document["by"]), files
    )


def _is_plain(name: str) -> bool:
    """Return whether a name is a path below a folder, and nothing else."""
    parts = name.split("/")
    return not ({"", ".", ".."} & set(parts) or "\\" in name or "\0" in name or PurePosixPath(name).is_absolute())
