"""Finds the columns and turn keys that are not used. They are listed once per file, so that none is lost unnoticed."""

from collections.abc import Iterable, Iterator
from typing import Any

from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.read_turns import MODEL_KEYS, OPENAI_ROLES, ROLES, TARGETS
from ft_pipeline.tables.formats.read_turns import READ_KEYS as TURN_KEYS
from ft_pipeline.tables.reading.describe import shorten
from ft_pipeline.tables.reading.sidecar import Sidecar, rename


def unread_columns(row_format: Format, shape: Iterable[str], sidecar: Sidecar) -> set[str]:
    """Return the columns among `shape` that are not used, quoted for display."""
    columns = set(shape)
    names = set(rename(dict.fromkeys(columns), sidecar))
    groups = {sidecar.group} if row_format.may_have_names else set()
    unread = {shorten(name) for name in names - row_format.keys - groups}
    for winner, losers in row_format.precedence:
        if winner in names:
            unread |= {f"{shorten(name)} ({shorten(winner)} is read)" for name in losers & names}
            names -= losers
    return unread | _outvoted_by_mapping(columns, sidecar)


def unread_turn_keys(row_format: Format, values: Iterable[Any], sidecar: Sidecar) -> set[str]:
    """Return the turn keys that are not used although they have a value, quoted for display."""
    unread: set[str] = set()
    for turn in _turns(row_format, values, sidecar):
        if len(turn) == 2 and (turn.keys() <= _FIRST or turn.keys() <= _SECOND):
            continue
        unread |= _of_turn(turn, sidecar)
        if row_format.pair_texts is not None and turn.get("weight") is not None:
            unread.add("'weight' of turns")  # of a pair, both answers are trained, and nothing else
    return unread


_FIRST, _SECOND = frozenset({"from", "value"}), frozenset({"role", "content"})


def _of_turn(turn: dict[str, Any], sidecar: Sidecar) -> set[str]:
    keys_with_value = {key for key, item in turn.items() if item is not None and (key, item) != ("loss_weight", 0)}
    names = set(rename(dict.fromkeys(keys_with_value), sidecar)) if sidecar.columns else keys_with_value
    unread = {f"{shorten(key)} of turns" for key in names - TURN_KEYS}
    for winner, loser in (("from", "role"), ("value", "content")):
        if winner in names and loser in names:
            unread.add(f"{shorten(loser)} of turns ({shorten(winner)} is read)")
    for key in MODEL_KEYS & names:
        if _role(turn, sidecar) not in (None, "assistant"):
            unread.add(f"{shorten(key)} of turns that are not the model's")
    return unread | {f"{name} of turns" for name in _outvoted_by_mapping(keys_with_value, sidecar)}


def _role(turn: dict[str, Any], sidecar: Sidecar) -> str | None:
    named = rename(turn, sidecar)
    speaker = named.get("from") or named.get("role")
    known = ROLES.get(str(speaker), OPENAI_ROLES.get(str(speaker)) if "role" in named else None)
    return TARGETS.get(sidecar.roles.get(str(speaker), ""), known)


def _outvoted_by_mapping(columns: set[str], sidecar: Sidecar) -> set[str]:
    """Return the columns with one of our names to which the sidecar maps another column, for display."""
    return {
        f"{shorten(target)} (the sidecar maps {shorten(source)} to it)"
        for source, target in sidecar.columns.items()
        if source != target and {source, target} <= columns and target not in sidecar.columns
    }


def _turns(row_format: Format, values: Iterable[Any], sidecar: Sidecar) -> Iterator[dict[str, Any]]:
    turn_fields = {field.name for field in row_format.fields if field.has_turns}
    names = turn_fields | {source for source, target in sidecar.columns.items() if target in turn_fields}
    for value in values if names else ():
        if not isinstance(value, dict):
            continue
        for name in names:
            turns = value.get(name)
            for turn in turns if isinstance(turns, list) else (turns,):
                if isinstance(turn, dict):
                    yield turn
