"""Reads JSONL and JSON arrays, distinguished by their content. Lines end only at \\n."""

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ft_pipeline.settings.raw_formats import MAIN_KEYS
from ft_pipeline.tables.reading.batches import BLOCK_BYTES, HEAD_BYTES, JSON_SPACE, MAX_LINE_BYTES, Batch, skip_bom
from ft_pipeline.tables.reading.graders import grader_advice, grader_in
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reason_codes import Fault, Refused

# A string, or a structural character. The group is the closing quote of the string, if it has one.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(")?|[\[\]{},]', re.DOTALL)
_STRING_END = re.compile(rb'(?:[^"\\]++|\\.)*+(")?', re.DOTALL)
RAW_BYTES = 8000
"""Length of the start of a row that is too long to be read, which is shown."""


def json_batches(path: Path, *, documents: bool = False) -> Iterator[Batch]:
    """Yield batches of unparsed lines or array elements. documents: a file that is one object is one row.

    Raises Refused: not_a_list, empty_file, invalid_json (a broken array).
    """
    with path.open("rb") as file:
        begin = skip_bom(file)
        head = file.read(HEAD_BYTES)
    spaces = len(head) - len(head.lstrip(JSON_SPACE))
    if head[spaces : spaces + 1] == b"[" and not _is_one_of_many_lines(path, begin + spaces):
        yield from _array_batches(path, begin + spaces)
        return
    if head[spaces : spaces + 1] == b"{" and documents:
        if path.stat().st_size <= MAX_LINE_BYTES and _is_one_object(path, begin + spaces):
            yield Batch([1], lines=[path.read_bytes()[begin:].strip(JSON_SPACE)])
            return
    elif head[spaces : spaces + 1] == b"{":
        _refuse_single_object(path, begin + spaces)
    yield from _line_batches(path)


def _line_batches(path: Path) -> Iterator[Batch]:
    number = 1
    with path.open("rb") as file:
        skip_bom(file)
        pieces: list[bytes] = []  # of the line that is not yet complete
        size, block = 0, file.read(BLOCK_BYTES)
        while block:
            whole, newline, rest = block.rpartition(b"\n")
            if newline:
                whole, pieces, size = b"".join([*pieces, whole]), [], 0
                yield Batch([number], block=whole)
                number += whole.count(b"\n") + 1
            pieces.append(rest)
            size += len(rest)
            if size > MAX_LINE_BYTES:
                yield Batch([number], values=[_too_long("line", b"".join(pieces), "split it, or was a line end lost?")])
                number += 1
                pieces, size = [], 0
                block = _skip_line(file) or file.read(BLOCK_BYTES)
            else:
                block = file.read(BLOCK_BYTES)
        rest = b"".join(pieces)
        if rest.strip(JSON_SPACE):
            yield Batch([number], block=rest)


def _too_long(what: str, start: bytes, advice: str) -> Fault:
    raw = start[:RAW_BYTES].decode("utf-8", errors="replace")
    return Fault("too_long", f"the {what} is longer than 64 MiB; {advice}", raw=raw)


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
        return file.readline(MAX_LINE_BYTES), _has_content(file)


def _has_content(file: BinaryIO) -> bool:
    """Return whether anything but white space follows in the file."""
    while block := file.read(BLOCK_BYTES):
        if block.strip(JSON_SPACE):
            return True
    return False


def _is_one_of_many_lines(path: Path, begin: int) -> bool:
    """Return whether a file that begins with [ is JSONL whose first row happens to be a list."""
    line, more = _first_line(path, begin)
    return more and line.endswith(b"\n") and isinstance(parse_line(line), list)


def _refuse_single_object(path: Path, begin: int) -> None:
    """Raise Refused (not_a_list) if the file is one object over several lines, or one that only wraps rows."""
    line, more = _first_line(path, begin)
    value = parse_line(line)
    if isinstance(value, dict):
        _refuse_grader(value, more)
        if not more and not looks_like_row(value):
            raise Refused("not_a_list", "the file is one JSON object; write one row per line, or a list of rows")
        return
    if more and isinstance(value, Fault) and value.code == "invalid_json" and _is_one_object(path, begin):
        if path.stat().st_size <= MAX_LINE_BYTES:
            _refuse_grader(parse_line(path.read_bytes()[begin:]))
        raise Refused("not_a_list", "the file is one JSON object over several lines; write one row per line, or a list")


def _refuse_grader(value: Any, more: bool = False) -> None:
    """Raise Refused if the only object of a file is a grader."""
    if not more and (grader := grader_in(value)) is not None:
        raise Refused("not_a_list", f"the file is a grader, which has no rows. {grader_advice(grader)}")


def looks_like_row(value: dict) -> bool:
    """Return whether a single object in a file can be a row. A wrapper contains rows by name or by column."""
    known = MAIN_KEYS & value.keys()
    if not known:
        return bool(value) and all(not isinstance(item, dict | list) for item in value.values())
    for name in known & {"instruction", "output", "text", "prompt", "completion"}:
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
            if first == 0x22 and (match.lastindex is None or b"\n" in match[0]):
                return False  # a string without a closing quote, or with a line end inside: not JSON
            if first in b"[{":
                depth += 1
            elif first in b"]}":
                depth -= 1
                if depth == 0:
                    return not data[match.end() :].strip(JSON_SPACE)
    return False


def _array_batches(path: Path, begin: int) -> Iterator[Batch]:
    """Yield the elements of the array that opens at byte `begin`, as bytes. One block and one element are in memory."""
    with path.open("rb") as file:
        batch, size = _array_batch(), 0
        for row, (start, end, element) in enumerate(_elements(file, begin), 1):
            if end - start > MAX_LINE_BYTES:
                if batch.rows:
                    yield batch
                yield Batch([row], values=[_too_long("element", element, "split it")], offsets=[start], ends=[end])
                batch, size = _array_batch(), 0
                continue
            batch.add_element(row, start, end, element)
            size += len(element)
            if size > BLOCK_BYTES:
                yield batch
                batch, size = _array_batch(), 0
        if batch.rows:
            yield batch


def _array_batch() -> Batch:
    return Batch([], lines=[], offsets=[], ends=[])


def _elements(file: BinaryIO, begin: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (first byte, byte after the end, content) of each element. Of one that is too long, only the start."""
    start, depth, content = begin + 1, 0, _Content()
    for offset, block, positions in _structure(file, begin):
        used = max(start - offset, 0)
        for position in positions:
            character = block[position]
            if character in b"[{":
                depth += 1
            elif character in b"]}":
                depth -= 1
            if depth > 1 or (depth == 1 and character != 0x2C):
                continue
            end = offset + position
            if depth == 0 and character != 0x5D:
                raise Refused("invalid_json", f"the JSON array is closed by a brace, at byte {end}")
            content.add(block[used:position])
            element, used = content.take(), position + 1
            if element:
                yield start, end, element
            elif depth == 1:
                raise Refused("invalid_json", f"the JSON array has an empty place at byte {start}")
            elif start != begin + 1:
                raise Refused("invalid_json", f"the JSON array has a comma before its end, at byte {end}")
            if depth == 0:
                file.seek(end + 1)
                if _has_content(file):
                    raise Refused(
                        "invalid_json", f"the JSON array ends at byte {end + 1}, and something comes after it"
                    )
                return
            start = end + 1
        content.add(block[used:])
    raise _cut_off(file.seek(0, os.SEEK_END))


class _Content:
    """The bytes of one element, from several blocks. If it is too long, its end is not kept."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        if self._size <= MAX_LINE_BYTES:
            self._pieces.append(piece)
        self._size += len(piece)

    def take(self) -> bytes:
        """Return the bytes without surrounding white space, and forget them."""
        content = b"".join(self._pieces).strip(JSON_SPACE)
        self._pieces, self._size = [], 0
        return content


def _structure(file: BinaryIO, begin: int) -> Iterator[tuple[int, bytes, list[int]]]:
    """Yield (offset, block, positions in the block of the structural characters outside strings) to the file's end.

    The file is not memory-mapped: if another program cuts it off meanwhile, a mapping would end this process.
    """
    file.seek(begin)
    offset, rest, in_string = begin, b"", False
    while chunk := file.read(BLOCK_BYTES):
        block, positions, end = rest + chunk, [], 0
        if in_string:
            string = _STRING_END.match(block)
            assert string is not None  # it matches the empty string
            in_string, end = string.lastindex is None, string.end()
        for match in () if in_string else _TOKEN.finditer(block, end):
            if match.lastindex:
                continue  # a whole string
            position = match.start()
            if block[position] == 0x22:
                in_string, end = True, match.end()
            else:
                positions.append(position)
        if in_string:  # it continues in the next block; a backslash is read together with what follows it
            block, rest = block[:end], block[end:]
        else:
            rest = b""
        yield offset, block, positions
        offset += len(block)


def _cut_off(size: int) -> Refused:
    return Refused(
        "invalid_json", f"the JSON array is cut off: the file ends at byte {size} and the array is still open"
    )
