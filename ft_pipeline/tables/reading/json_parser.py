"""Strict parser for one line of JSON: where a lenient parser would guess, it returns a fault. If only some columns of a
row have one, the fault is a DamagedRow.

orjson reads most lines. It silently keeps the last of two equal keys, so parse_carefully reads a line unless counting
proves that it has no duplicate key. Lines that orjson refuses are also read by parse_carefully, to find the reason.
"""

import json
import math
import re
from itertools import chain
from typing import Any

import numpy as np
import orjson

from ft_pipeline.tables.reading.batches import JSON_SPACE
from ft_pipeline.tables.reading.describe import BadNumber, shorten
from ft_pipeline.tables.reason_codes import Fault, damaged

MAX_DEPTH = 200
"""A row that is nested more deeply is a fault."""
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SPACES = np.frombuffer(JSON_SPACE, np.uint8)
_CONTAINERS = frozenset({dict, list})
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE = re.compile("[\udc80-\udcff]")
"""What a byte becomes that is not UTF-8."""


class _Twice(dict[str, Any]):
    """An object that has a key twice. It keeps the last value."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.keys_twice = [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]


def parse_line(line: bytes) -> Any:
    """Return the value of one line (or array element) of JSON, or the Fault of its row."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return parse_carefully(line)
    if isinstance(value, dict | list):
        keys, nested = _count_keys(value)
        if _spaced_colons(line) or line.count(b'":') != keys:
            return parse_carefully(line)
        if nested and line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
            return _too_deep()
    return value


def parse_block(block: bytes, lines: list[bytes]) -> list[Any]:
    """Like parse_line for all lines of a block. Counts the keys of the whole block once if that is sufficient."""
    before = _before_colons(block)
    if np.isin(before, _SPACES).any():
        return [parse_line(line) for line in lines]
    values = _load_all(lines)
    objects = [value for value in values if type(value) is dict]
    total, elsewhere = sum(map(len, objects)), 0
    are_flat = _CONTAINERS.isdisjoint(map(type, chain.from_iterable(map(dict.values, objects))))
    for position, value in enumerate(values) if len(objects) < len(values) or not are_flat else ():
        if type(value) is not dict:
            elsewhere += lines[position].count(b'":')
        elif are_flat or _CONTAINERS.isdisjoint(map(type, value.values())):
            continue
        else:
            total += _count_keys(value)[0] - len(value)
        if type(value) in _CONTAINERS:
            values[position] = parse_line(lines[position])
    # Every line has at least as many `":` as keys, so equal sums mean equal counts in each line.
    keys = int(np.count_nonzero(before == ord('"')))
    return values if keys - elsewhere == total else [parse_line(line) for line in lines]


def _load_all(lines: list[bytes]) -> list[Any]:
    """Return the value of each line; of one that orjson refuses, what parse_carefully returns."""
    values: list[Any] = []
    rest = iter(lines)
    while len(values) < len(lines):
        try:
            values.extend(map(orjson.loads, rest))
        except orjson.JSONDecodeError:  # the values before it are in the list
            values.append(parse_carefully(lines[len(values)]))
    return values


def _before_colons(text: bytes) -> np.ndarray:
    """Return the byte before each colon."""
    data = np.frombuffer(text, np.uint8)
    return data[np.flatnonzero(data[1:] == ord(":"))]


def _spaced_colons(text: bytes) -> bool:
    """Return whether there may be white space between a key and its colon. Without it, `":` follows every key."""
    return b" :" in text or b"\t:" in text or b"\r:" in text or b"\n:" in text


def _count_keys(value: Any) -> tuple[int, bool]:
    """Return (number of keys of all objects in a value, whether it contains other objects or lists)."""
    stack = [child for child in (value.values() if type(value) is dict else value) if type(child) in (dict, list)]
    total, nested = len(value) if type(value) is dict else 0, bool(stack)
    while stack:
        item = stack.pop()
        if type(item) is dict:
            total += len(item)
            stack.extend(item.values())
        elif type(item) is list:
            stack.extend(item)
    return total, nested


def parse_carefully(line: bytes) -> Any:
    """Like parse_line, with Python's json module: slower, but it distinguishes the faults."""
    not_utf8 = None
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"byte 0x{line[error.start]:02x} at position {error.start + 1}"
        not_utf8 = Fault("not_utf8", f"{what} is not UTF-8; save it as UTF-8")
        text = line.decode("utf-8", "surrogateescape")
    if _depth(line) > MAX_DEPTH:
        return not_utf8 or _too_deep()
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=BadNumber
        )
    except json.JSONDecodeError as error:
        near = shorten(text[max(error.pos - 15, 0) : error.pos + 15])
        why = f"{error.msg[0].lower()}{error.msg[1:]}".removesuffix(" at")
        return not_utf8 or Fault("invalid_json", f"not JSON: {why} at column {error.pos + 1}, near {near}")
    except (RecursionError, ValueError):
        return not_utf8 or Fault("invalid_json", "not JSON that can be read")
    if not isinstance(value, dict):
        return not_utf8 or _fault_in(value, line, None) or value
    twice = {key: _key_twice(key) for key in value.keys_twice} if isinstance(value, _Twice) else {}
    faults = {name: fault for name, item in value.items() if (fault := _fault_in({name: item}, line, not_utf8))}
    return damaged(dict(value), twice | faults)


def _fault_in(value: Any, line: bytes, not_utf8: Fault | None) -> Fault | None:
    """Return the worst fault in a value, or None. not_utf8: the fault of the line, if it is not UTF-8."""
    found: Fault | None = None
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str) and not item.isascii() and _SURROGATE.search(item):
            if not_utf8 and _BYTE.search(item):
                return not_utf8
            found = found or Fault("lone_surrogate", _surrogate_message(line))
        elif isinstance(item, dict):
            if isinstance(item, _Twice):
                found = _key_twice(item.keys_twice[0])
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return found


def _key_twice(key: str) -> Fault:
    return Fault("duplicate_key", f"key {shorten(key)} stands twice in one object; keep one")


def _surrogate_message(line: bytes) -> str:
    escape = re.search(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", line)
    what = escape[0].decode() if escape else "an escape \\ud800 to \\udfff"
    return f"half a character: {what} or another such escape stands without its pair; write the character itself"


def _too_deep() -> Fault:
    return Fault("invalid_json", f"nested more than {MAX_DEPTH} levels deep; a row has two or three")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    return value if len(value) == len(pairs) else _Twice(pairs)


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) < 400 else BadNumber(digits)


def _real(digits: str) -> Any:
    number = float(digits)
    return number if math.isfinite(number) else BadNumber(digits)


def _depth(line: bytes) -> int:
    depth = deepest = 0
    for match in _STRUCTURE.finditer(line):
        first = line[match.start()]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest
