"""What of a file's rows nothing reads: named once per file, so that no column and no key of a turn is lost unsaid."""

from collections.abc import Iterable, Iterator
from typing import Any

from ft_pipeline.tables.formats.registry import READ_KEYS
from ft_pipeline.tables.formats.turns import READ_KEYS as TURN_KEYS
from ft_pipeline.tables.formats.turns import ROLES, TARGETS
from ft_pipeline.tables.reading.describe import shorten
from ft_pipeline.tables.reading.sidecar import Sidecar, rename

_TURNS = {
    "alpaca": (),
    "sharegpt": ("conversations", "messages"),
    "text": (),
    "preferences": ("prompt", "chosen", "rejected"),
    "unlabelled": ("conversations", "messages"),
}
"""The columns that may hold turns."""
_OUTVOTED = {
    "sharegpt": (("conversations", {"messages"}),),
    "preferences": (("prompt", {"conversations", "messages"}),),
    "unlabelled": (
        ("instruction", {"conversations", "messages"}),
        ("conversations", {"messages", "input", "system", "history"}),
        ("messages", {"input", "system", "history"}),
    ),
}
"""Where the first column is there, the others are not read."""


def unread_columns(data_format: str, shape: Iterable[str], sidecar: Sidecar) -> set[str]:
    """Of rows with the columns `shape`, those that nothing reads, as a person may read them."""
    columns = set(shape)
    names = set(rename(dict.fromkeys(columns), sidecar)) if sidecar.columns else columns
    found = {shorten(name) for name in names - READ_KEYS[data_format]}
    for winner, losers in _OUTVOTED.get(data_format, ()):
        if winner in names:
            found |= {f"{shorten(name)} ({shorten(winner)} is read)" for name in losers & names}
            names -= losers
    return found | _outvoted_by_mapping(columns, sidecar)


def unread_turn_keys(data_format: str, values: Iterable[Any], sidecar: Sidecar) -> set[str]:
    """The keys of turns that nothing reads, where they hold anything."""
    found: set[str] = set()
    for turn in _turns(data_format, values, sidecar):
        if len(turn) == 2 and (turn.keys() <= _FIRST or turn.keys() <= _SECOND):
            continue
        found |= _of_turn(turn, sidecar)
    return found


_FIRST, _SECOND = frozenset({"from", "value"}), frozenset({"role", "content"})


def _of_turn(turn: dict[str, Any], sidecar: Sidecar) -> set[str]:
    given = {key for key, item in turn.items() if item is not None}
    names = set(rename(dict.fromkeys(given), sidecar)) if sidecar.columns else given
    found = {f"{shorten(key)} of turns" for key in names - TURN_KEYS}
    for winner, loser in (("from", "role"), ("value", "content")):
        if winner in names and loser in names:
            found.add(f"{shorten(loser)} of turns ({shorten(winner)} is read)")
    if "reasoning_content" in names and _role(turn, sidecar) not in (None, "assistant"):
        found.add("'reasoning_content' of turns that are not the model's")
    return found | {f"{name} of turns" for name in _outvoted_by_mapping(given, sidecar)}


def _role(turn: dict[str, Any], sidecar: Sidecar) -> str | None:
    named = rename(turn, sidecar)
    speaker = named.get("from") or named.get("role")
    return TARGETS.get(sidecar.roles.get(str(speaker), ""), ROLES.get(str(speaker)))


def _outvoted_by_mapping(columns: set[str], sidecar: Sidecar) -> set[str]:
    """A column of our name, where the sidecar maps another one to it."""
    return {
        f"{shorten(ours)} (the sidecar maps {shorten(theirs)} to it)"
        for theirs, ours in sidecar.columns.items()
        if theirs != ours and {theirs, ours} <= columns and ours not in sidecar.columns
    }


def _turns(data_format: str, values: Iterable[Any], sidecar: Sidecar) -> Iterator[dict[str, Any]]:
    wanted = set(_TURNS[data_format])
    names = wanted | {theirs for theirs, ours in sidecar.columns.items() if ours in wanted}
    for value in values:
        if not isinstance(value, dict):
            continue
        for name in names:
            held = value.get(name)
            for turn in held if isinstance(held, list) else (held,):
                if isinstance(turn, dict):
                    yield turn
