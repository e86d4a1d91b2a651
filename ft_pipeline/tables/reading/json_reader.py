"""Reads JSONL and JSON arrays, distinguished by their content. Lines end only at \\n."""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ft_pipeline.tables.reading.batches import BLOCK_BYTES, HEAD_BYTES, JSON_SPACE, MAX_LINE_BYTES, Batch, skip_bom
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reason_codes import Fault, Refused

# A string (possibly without its closing quote), or a structural character.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)
MAIN_KEYS = frozenset({"instruction", "output", "text", "prompt", "chosen", "rejected", "conversations", "messages"})
"""The main keys of the rows of all formats."""


def json_batches(path: Path) -> Iterator[Batch]:
    """Yield batches of unparsed lines or array elements.

    Raises Refused: not_a_list, empty_file, invalid_json (a broken array).
    """
    with path.open("rb") as file:
        begin = skip_bom(file)
        head = file.read(HEAD_BYTES)
    spaces = len(head) - len(head.lstrip(JSON_SPACE))
    if head[spaces : spaces + 1] == b"[" and not _is_one_of_many_lines(path, begin + spaces):
        yield from _array_batches(path, begin + spaces)
        return
    if head[spaces : spaces + 1] == b"{":
        _refuse_single_object(path, begin + spaces)
    yield from _line_batches(path)


def _line_batches(path: Path) -> Iterator[Batch]:
    number = 1
    with path.open("rb") as file:
        skip_bom(file)
        rest = b""
        while block := file.read(BLOCK_BYTES):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield Batch([number], block=whole)
                number += whole.count(b"\n") + 1
            if len(rest) > MAX_LINE_BYTES:
                start = rest[:8000].decode("utf-8", errors="replace")
                yield Batch(
                    [number],
                    values=[
                        Fault(
                            "too_long", "the line is longer than 64 MiB; split it, or was a line end lost?", raw=start
                        )
                    ],
                )
                number += 1
                rest = _skip_line(file)
        if rest.strip(JSON_SPACE):
            yield Batch([number], block=rest)


def _skip_line(file: BinaryIO) -> bytes:
    """Read to the end of the line. Returns what follows it in the last block that was read."""
    while block := file.read(BLOCK_BYTES):
        _, newline, rest = block.partition(b"\n")
        if newline:
            return rest
    return b""


def _first_line(path: Path, begin: int) -> tuple[bytes, bool]:
    """Return the line at `begin`, and whether anything but white space follows it."""
    with path.open("rb") as file:
        file.seek(begin)
        line = file.readline(MAX_LINE_BYTES)
        while block := file.read(BLOCK_BYTES):
            if block.strip(JSON_SPACE):
                return line, True
    return line, False


def _is_one_of_many_lines(path: Path, begin: int) -> bool:
    """Return whether a file that begins with [ is JSONL whose first row happens to be a list."""
    line, more = _first_line(path, begin)
    return more and line.endswith(b"\n") and isinstance(parse_line(line), list)


def _refuse_single_object(path: Path, begin: int) -> None:
    """Raise Refused (not_a_list) if the file is one object over several lines, or one that only wraps rows."""
    line, more = _first_line(path, begin)
    value = parse_line(line)
    if isinstance(value, dict):
        if not more and not looks_like_row(value):
            raise Refused("not_a_list", "the file is one JSON object; write one row per line, or a list of rows")
        return
    if more and isinstance(value, Fault) and value.code == "invalid_json" and _is_one_object(path, begin):
        raise Refused("not_a_list", "the file is one JSON object over several lines; write one row per line, or a list")


def looks_like_row(value: dict) -> bool:
    """Return whether a single object in a file can be a row. A wrapper contains rows by name or by column."""
    known = MAIN_KEYS & value.keys()
    if not known:
        return bool(value) and all(not isinstance(item, dict | list) for item in value.values())
    for name in known - {"conversations", "messages", "chosen", "rejected"}:
        if isinstance(value[name], dict | list):
            return False
    turns: Any = next((value[name] for name in ("conversations", "messages") if name in value), [])
    nested = isinstance(turns, list) and any(
        isinstance(turn, list) or (isinstance(turn, dict) and {"conversations", "messages"} & turn.keys())
        for turn in turns
    )
    return not nested


def _is_one_object(path: Path, begin: int) -> bool:
    """Return whether the braces that open at `begin` close at the end of the file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        depth = 0
        for match in _TOKEN.finditer(data, begin):
            first = data[match.start()]
            if first == 0x22 and (data[match.end() - 1] != 0x22 or b"\n" in match[0]):
                return False  # a string without a closing quote, or with a line end inside: not JSON
            if first in b"[{":
                depth += 1
            elif first in b"]}":
                depth -= 1
                if depth == 0:
                    return not data[match.end() :].strip(JSON_SPACE)
    return False


def _array_batches(path: Path, begin: int) -> Iterator[Batch]:
    """Yield the elements of the array that opens at `begin`, as bytes. The file is memory-mapped, not loaded."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        rows: list[int] = []
        lines: list[bytes] = []
        offsets: list[int] = []
        size = 0
        for row, (start, element) in enumerate(_elements(data, begin), 1):
            rows.append(row)
            lines.append(element)
            offsets.append(start)
            size += len(element)
            if size > BLOCK_BYTES:
                yield Batch(rows, lines=lines, offsets=offsets)
                rows, lines, offsets, size = [], [], [], 0
        if rows:
            yield Batch(rows, lines=lines, offsets=offsets)


def _elements(data: mmap.mmap, begin: int) -> Iterator[tuple[int, bytes]]:
    depth, start = 0, begin + 1
    for match in _TOKEN.finditer(data, begin):
        first = data[match.start()]
        if first == 0x22:
            if match.end() - match.start() < 2 or data[match.end() - 1] != 0x22:
                raise _cut_off(len(data))
        elif first in b"[{":
            depth += 1
        elif first == 0x2C:
            if depth == 1:
                yield _element(data, start, match.start())
                start = match.end()
        else:
            depth -= 1
            if depth == 0 and first != 0x5D:
                raise Refused("invalid_json", f"the JSON array is closed by a brace, at byte {match.start()}")
            if depth == 0:
                last = data[start : match.start()]
                if last.strip(JSON_SPACE):
                    yield _element(data, start, match.start())
                elif start != begin + 1:
                    raise Refused("invalid_json", f"the JSON array has a comma before its end, at byte {match.start()}")
                if data[match.end() :].strip(JSON_SPACE):
                    raise Refused(
                        "invalid_json", f"the JSON array ends at byte {match.end()}, and something comes after it"
                    )
                return
    raise _cut_off(len(data))


def _element(data: mmap.mmap, start: int, end: int) -> tuple[int, bytes]:
    element = data[start:end].strip(JSON_SPACE)
    if not element:
        raise Refused("invalid_json", f"the JSON array has an empty place at byte {start}")
    return start, element


def _cut_off(size: int) -> Refused:
    return Refused(
        "invalid_json", f"the JSON array is cut off: the file ends at byte {size} and the array is still open"
    )
