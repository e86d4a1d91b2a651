"""One line of JSON into a value, strictly: what a lenient parser would guess at becomes a fault.

orjson reads the plain lines. It keeps the last of two equal keys in silence, so a line is handed to the careful path
unless counting proves that no key stands twice; whatever orjson refuses goes there too, to learn why.
"""

import json
import math
import re
from typing import Any

import orjson

from ft_pipeline.tables.codes import Fault

MAX_DEPTH = 200
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadNumber:
    """NaN, an infinity, or an integer too long to be meant: never text, so that it is `wrong_type` wherever it is used."""

    def __repr__(self) -> str:
        return "a number that JSON does not know"


class _DuplicateKey(Exception):
    pass


def parse_line(line: bytes) -> Any:
    """The value of one line (or array element) of JSON, or the Fault of the row that it would have been."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return parse_carefully(line)
    if isinstance(value, dict) and not keys_are_single(line, value):
        return parse_carefully(line)
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
        return _too_deep()
    return value


def keys_are_single(line: bytes, value: dict) -> bool:
    """Whether counting proves that no object in `line` names a key twice; False means unproven.

    Without white space before a colon, every key is followed by `":`; as many of those as there are parsed keys means
    that none was overwritten.
    """
    if b" :" in line or b"\t:" in line or b"\r:" in line or b"\n:" in line:
        return False
    return line.count(b'":') == _count_keys(value)


def _count_keys(value: dict) -> int:
    total = len(value)
    stack = [child for child in value.values() if type(child) in (dict, list)]
    while stack:
        item = stack.pop()
        if type(item) is dict:
            total += len(item)
            stack.extend(item.values())
        elif type(item) is list:
            stack.extend(item)
    return total


def parse_carefully(line: bytes) -> Any:
    """As parse_line, by Python's own parser: slower, and it can tell one fault from another."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault("not_utf8", f"byte 0x{line[error.start]:02x} at position {error.start + 1} is not UTF-8")
    if _depth(line) > MAX_DEPTH:
        return _too_deep()
    try:
        value = json.loads(
            text, object_pairs_hook=_single, parse_int=_integer, parse_float=_real, parse_constant=lambda _: BadNumber()
        )
    except _DuplicateKey as error:
        return Fault("duplicate_key", f"key {shorten(str(error))} stands twice in one object")
    except json.JSONDecodeError as error:
        return Fault("invalid_json", f"not JSON: {error.msg[0].lower()}{error.msg[1:]} at column {error.pos + 1}")
    except (RecursionError, ValueError):
        return Fault("invalid_json", "not JSON that can be read")
    return (
        Fault("lone_surrogate", "an escape \\ud800 to \\udfff stands without its pair")
        if _has_surrogate(value)
        else value
    )


def _too_deep() -> Fault:
    return Fault("invalid_json", f"nested more than {MAX_DEPTH} levels deep")


def shorten(text: str, limit: int = 40) -> str:
    """A value for a message: quoted, on one line, cut, and printable."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateKey(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return result


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) < 400 else BadNumber()


def _real(digits: str) -> Any:
    number = float(digits)
    return number if math.isfinite(number) else BadNumber()


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
