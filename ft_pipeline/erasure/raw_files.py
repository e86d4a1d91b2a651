"""Rows of raw files with their ids, and their replacement by erasure markers that leaves all other rows unchanged."""

import ast
import contextlib
import csv
import json
import mmap
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.erasure.near_copies import Content
from ft_pipeline.sources.file_names import suffix_of
from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.excluded_rows import is_erasure_marker
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.convert import convert, usable
from ft_pipeline.tables.formats.read_turns import READ_KEYS
from ft_pipeline.tables.formats.registry import FORMATS, format_of_file
from ft_pipeline.tables.formats.row_ids import row_id
from ft_pipeline.tables.formats.turns import strings_in_json
from ft_pipeline.tables.masking import Masker
from ft_pipeline.tables.raw_text import expand_documents, raw_json
from ft_pipeline.tables.reading.batches import BOM, JSON_SPACE, Batch, divide
from ft_pipeline.tables.reading.compressed import codec_of, expanded
from ft_pipeline.tables.reading.containers import read_batches
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reading.tabular_reader import separator_of
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces.documents import call_of_feedback, ids_of_calls

_ASKED_COLUMNS = frozenset({"instruction", "input"})
"""Text columns that people write; the others are answers or documents."""
_ESCAPE = re.compile(r"(?:\\(?:u[0-9a-fA-F]{4}|.))+")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
"""Control characters other than white space. One inside a word does not divide it."""
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)')
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
"""A text in Python's quotes, as messages quote it (reading/describe.py)."""
_KEYS = READ_KEYS.union(*(row_format.keys for row_format in FORMATS.values()))


@dataclass(frozen=True)
class RawRow:
    """One row of a raw file, whether it can be used or not."""

    number: int
    """Line, list index or data row, from 1."""
    identity: str
    """The row's id in its table. For a row that cannot be converted, a hash of its raw text."""
    content: Content
    """What people and models say in it."""
    texts: frozenset[str]
    """Every string in the row, before and after its conversion, and what messages quote of it."""
    is_marker: bool = False
    """Whether the row is an erasure marker."""
    is_broken: bool = False
    """Whether the row cannot be parsed, for example because its line is cut off."""
    call_ids: frozenset[str] = frozenset()
    """In a file of traces: the call that the row comes from, or that the document gives feedback on. Of a document that
    cannot be used: all of its calls."""
    is_feedback: bool = False
    """Whether the document only gives feedback on a call."""


def read_raw_rows(
    path: Path, name: str, data_format: str, sidecar: Sidecar, work: Path, mask: Sequence[str] = ()
) -> Iterator[RawRow]:
    """Yield every row of a raw file. `name` is the file's original name; its suffix distinguishes CSV and Parquet.

    mask: what is masked in the tables; a row is then also yielded as it is there. A compressed file is expanded into
    the folder `work`. Raises reason_codes.Refused if the whole file is refused.
    """
    row_format = FORMATS[data_format]
    source = format_of_file(data_format, name)
    with expanded(path, work) as plain:

        def batches() -> Iterator[Batch]:
            return read_batches(plain, suffix_of(name), documents=bool(source.expand))

        prepared = source.prepare(batches, sidecar) if source.prepare is not None else None
        expand = source.expand.get(data_format)
        for undivided in batches():
            batch = divide(undivided)
            values = batch.values if batch.lines is None else [parse_line(line) for line in batch.lines]
            if expand is not None:
                yield from _feedback_rows(batch, values)
                documents = dict(zip(batch.rows, values, strict=True))
                batch = expand_documents(partial(expand, feedback=prepared), batch, values, sidecar)
                values = batch.values
            for position, value in enumerate(values):
                number, raw_text = batch.rows[position], _raw_text(batch, position, value)
                calls = _calls_of(value, documents[number], sidecar) if expand is not None else frozenset()
                row = usable(row_format, value, sidecar) if expand is None else value
                read = _raw_row(number, row, raw_text, row_format, sidecar)
                texts = read.texts if row is value else read.texts.union(_strings_in_broken(raw_text))
                yield replace(read, texts=texts, call_ids=calls)
                if mask and (masked := Masker(mask).mask(row)) != row:
                    masked_row = _raw_row(number, masked, raw_json(masked), row_format, sidecar)
                    yield replace(masked_row, call_ids=calls)


def _feedback_rows(batch: Batch, documents: Iterable[Any]) -> Iterator[RawRow]:
    """Yield the documents that are feedback on a call. They become no row of their own, but may repeat its texts."""
    for position, document in enumerate(documents):
        if (call_id := call_of_feedback(document)) is not None:
            identity = sha256(_raw_text(batch, position, document).encode("utf-8", "surrogateescape")).hexdigest()
            said = tuple(_strings_of(document))
            row = RawRow(batch.rows[position], identity, _content((), said), frozenset(said))
            yield replace(row, call_ids=frozenset({call_id}), is_feedback=True)


def _calls_of(value: Any, document: Any, sidecar: Sidecar) -> frozenset[str]:
    """Return the ids of the call that a row of a document comes from; of all of its calls for what is no row."""
    if isinstance(value, Fault):
        return ids_of_calls(document, sidecar)
    return frozenset(filter(None, [value.get("call_id")]))


def _raw_row(number: int, value: Any, raw_text: str, row_format: Format, sidecar: Sidecar) -> RawRow:
    record = convert(row_format, value, sidecar)
    if isinstance(record, Fault):
        identity = sha256(raw_text.encode("utf-8", "surrogateescape")).hexdigest()
        said = _strings_in_broken(raw_text) if isinstance(value, Fault) else tuple(_strings_of(value))
        quoted = (text for text in _quoted_in(record.message) if any(text in whole for whole in (raw_text, *said)))
        is_marker = isinstance(value, dict) and is_erasure_marker(value)
        return RawRow(
            number, identity, _content((), said), frozenset([*said, *quoted]), is_marker, isinstance(value, Fault)
        )
    columns = dict(zip(row_format.column_names, record, strict=True))
    texts = frozenset([*_strings_of(value), *_strings_of(columns)])
    return RawRow(number, row_id(columns), _content_of(columns), texts)


def _content_of(columns: Mapping[str, Any]) -> Content:
    """Return what is said in a converted row."""
    asked: list[str] = []
    answered: list[str] = []
    for name, value in columns.items():
        if name == "history":
            asked += [human for human, _ in value or ()]
            answered += [model for _, model in value or ()]
        elif isinstance(value, list) and name != "tags":
            for turn in value:
                if turn["role"] != "system":
                    (asked if turn["role"] == "user" else answered).append(turn["content"])
        elif isinstance(value, str) and name not in ("system", "tools"):
            (asked if name in _ASKED_COLUMNS else answered).append(value)
    return _content(asked, answered)


def _content(asked: Iterable[str], answered: Iterable[str]) -> Content:
    return Content(*(tuple(_CONTROL.sub("", text) for text in texts) for texts in (asked, answered)))


def _strings_in_broken(text: str) -> tuple[str, ...]:
    """Return the strings in a line that is not JSON, except its keys; the whole line if it is not similar to JSON."""
    strings = _STRING.findall(text) if text[:1] in ("{", "[") else []
    texts = (_ESCAPE.sub(_character, string) for string in strings)
    return tuple(string for string in texts if not _KEYS.issuperset(words_of(string))) or (text,)


def _character(escape: re.Match[str]) -> str:
    """Return what escapes of JSON stand for; a space if they stand for nothing."""
    with contextlib.suppress(ValueError):
        return str(json.loads(f'"{escape[0]}"'))
    return " "


def _quoted_in(message: str) -> Iterator[str]:
    """Yield the texts that a message quotes, without those that consist of names of keys."""
    for match in _QUOTED.finditer(message):
        with contextlib.suppress(ValueError, SyntaxError):
            text = str(ast.literal_eval(match[0])).rstrip("…")
            if not _KEYS.issuperset(words_of(text)):
                yield text


def _raw_text(batch: Batch, position: int, value: Any) -> str:
    """Return the text of a row as it is in the file, or as JSON if the file is CSV or Parquet."""
    if batch.lines is not None:
        return batch.lines[position].strip().decode("utf-8", "replace")
    if isinstance(value, Fault):
        return value.raw
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def _strings_of(value: Any) -> Iterator[str]:
    """Yield every string in a value, and every string in the strings that are objects in JSON, such as the arguments of
    calls. A key of a mapping is one only if it contains a space: others name columns."""
    if isinstance(value, str):
        yield value
        if value.startswith(("{", "[")):
            yield from _strings_of(strings_in_json(value))
    elif isinstance(value, Mapping):
        yield from (key for key in value if isinstance(key, str) and " " in key)
        for item in value.values():
            yield from _strings_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings_of(item)


def replace_with_markers(path: Path, name: str, markers: Mapping[int, str], target: BinaryIO, work: Path) -> None:
    """Write the file to `target`, with each of these rows (by number) replaced by its marker. All other rows keep their
    bytes and their numbers. A Parquet file is rewritten. A compressed file is expanded into the folder `work`, and
    compressed again in the same way."""
    codec = codec_of(path)
    if codec is None:
        _replace_rows(path, suffix_of(name), markers, target)
        return
    with expanded(path, work) as plain, tempfile.TemporaryFile(dir=work) as changed:
        _replace_rows(plain, suffix_of(name), markers, changed)
        changed.seek(0)
        codec.compress(changed, target)


def _replace_rows(path: Path, suffix: str, markers: Mapping[int, str], target: BinaryIO) -> None:
    first = next(read_batches(path, suffix, documents=True))
    if first.offsets is not None:
        _replace_array_elements(path, suffix, markers, target)
    elif first.block is None and first.lines is not None:  # one object over several lines
        target.write(_json_marker(markers[1]))
    elif first.block is not None or first.lines is not None:
        _replace_lines(path, markers, target)
    elif suffix == ".parquet":
        _replace_parquet_rows(path, markers, target)
    else:
        _replace_csv_rows(path, markers, target)


def _json_marker(marker: str) -> bytes:
    return orjson.dumps({"excluded": marker})


def _replace_lines(path: Path, markers: Mapping[int, str], target: BinaryIO) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number in markers:
                bom = BOM if number == 1 and line.startswith(BOM) else b""
                line = bom + _json_marker(markers[number]) + line[len(line.rstrip(b"\r\n")) :]
            target.write(line)


def _replace_array_elements(path: Path, suffix: str, markers: Mapping[int, str], target: BinaryIO) -> None:
    copied = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for batch in read_batches(path, suffix):
            for number, begin, end in zip(batch.rows, batch.offsets or [], batch.ends or [], strict=True):
                if number in markers:
                    element = content[begin:end]
                    start = end - len(element.lstrip(JSON_SPACE))
                    target.write(memoryview(content)[copied:start])
                    target.write(_json_marker(markers[number]))
                    copied = begin + len(element.rstrip(JSON_SPACE))
        target.write(memoryview(content)[copied:])


def _replace_csv_rows(path: Path, markers: Mapping[int, str], target: BinaryIO) -> None:
    """Replace whole lines: a CSV row always ends at the end of a line."""
    read: list[str] = []  # the lines of the row that is being read
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = (read.append(line) or line for line in file)  # type: ignore[func-returns-value]
        reader = csv.reader(lines, strict=True, delimiter=separator_of(file))
        number = -1  # the header is not a row
        for cells in reader:
            number += bool(cells)  # a blank line is not a row
            text = "".join(read)
            read.clear()
            if cells and number in markers:
                text = markers[number] + text[len(text.rstrip("\r\n")) :]
            target.write(text.encode("utf-8", "surrogateescape"))


def _replace_parquet_rows(path: Path, markers: Mapping[int, str], target: BinaryIO) -> None:
    """Put each marker into the first column of strings. All other cells of the row become null."""
    with open_parquet(path) as file:
        schema = pa.schema([column.with_nullable(True) for column in file.schema_arrow], file.schema_arrow.metadata)
        texts = [name for name, kind in zip(schema.names, schema.types, strict=True) if kind in _STRING_TYPES]
        first = 1  # number of the row group's first row
        with pq.ParquetWriter(target, schema) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group).cast(schema)
                numbers = sorted(number for number in markers if first <= number < first + len(table))
                places = [number - first for number in numbers]
                kept = [table.slice(start + 1, end - start - 1) for start, end in pairwise([-1, *places, len(table)])]
                marked = [pa.Table.from_pylist([{texts[0]: markers[n]} if texts else {}], schema) for n in numbers]
                parts = [part for pair in zip(kept, [*marked, None], strict=True) for part in pair if part is not None]
                writer.write_table(pa.concat_tables(parts))
                first += len(table)


_STRING_TYPES = (pa.string(), pa.large_string())
