"""Strict parser for one line of JSON: where a lenient parser would guess, it returns a fault.

orjson reads most lines. It silently keeps the last of two equal keys, so parse_carefully reads a line unless counting
proves that it has no duplicate key. Lines that orjson refuses are also read by parse_carefully, to find the reason.
"""

import json
import math
import re
from typing import Any

import orjson

from ft_pipeline.tables.reading.describe import BadNumber, shorten
from ft_pipeline.tables.reason_codes import Fault

MAX_DEPTH = 200
"""A row that is nested more deeply is a fault."""
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_CONTAINERS = frozenset({dict, list})
_SURROGATE = re.compile("[\ud800-\udfff]")


class _DuplicateKey(Exception):
    pass


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
    if _spaced_colons(block):
        return [parse_line(line) for line in lines]
    values: list[Any] = []
    total, elsewhere = 0, 0
    for line in lines:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            values.append(parse_carefully(line))
            elsewhere += line.count(b'":')
            continue
        if type(value) is dict:
            if _CONTAINERS.isdisjoint(map(type, value.values())):
                total += len(value)
                values.append(value)
                continue
            total += _count_keys(value)[0]
        values.append(parse_line(line) if type(value) in (dict, list) else value)
        elsewhere += line.count(b'":') if type(value) is not dict else 0
    # Every line has at least as many `":` as keys, so equal sums mean equal counts in each line.
    return values if block.count(b'":') - elsewhere == total else [parse_line(line) for line in lines]


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
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(
            "not_utf8",
            f"byte 0x{line[error.start]:02x} at position {error.start + 1} is not UTF-8; save it as UTF-8",
        )
    if _depth(line) > MAX_DEPTH:
        return _too_deep()
    try:
        value = json.loads(
            text, object_pairs_hook=_single, parse_int=_integer, parse_float=_real, parse_constant=BadNumber
        )
    except _DuplicateKey as error:
        return Fault("duplicate_key", f"key {shorten(str(error))} stands twice in one object; keep one")
    except json.JSONDecodeError as error:
        near = shorten(text[max(error.pos - 15, 0) : error.pos + 15])
        why = f"{error.msg[0].lower()}{error.msg[1:]}".removesuffix(" at")
        return Fault("invalid_json", f"not JSON: {why} at column {error.pos + 1}, near {near}")
    except (RecursionError, ValueError):
        return Fault("invalid_json", "not JSON that can be read")
    return Fault("lone_surrogate", _surrogate_message(line)) if _has_surrogate(value) else value


def _surrogate_message(line: bytes) -> str:
    escape = re.search(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", line)
    what = escape[0].decode() if escape else "an escape \\ud800 to \\udfff"
    return f"half a character: {what} or another such escape stands without its pair; write the character itself"


def _too_deep() -> Fault:
    return Fault("invalid_json", f"nested more than {MAX_DEPTH} levels deep; a row has two or three")


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateKey(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return result


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


def _has_surrogate(value: Any) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not item.isascii() and _SURROGATE.search(item):
                return True
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False
