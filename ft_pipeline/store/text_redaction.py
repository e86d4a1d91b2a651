"""Remove texts from strings, JSON values, Parquet tables and files."""

import html
import json
import mmap
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.store.parquet_files import open_parquet

PLACEHOLDER = "[forgotten]"
"""The text that replaces an erased one."""
MIN_CHARS = 12
"""A shorter text ("Yes, it is.") is removed from a cell or an object that belongs to an erased row. Elsewhere it is
removed only if it has a space or letters beyond ASCII, and if no other row contains it."""
MIN_SHORT_CHARS = 4
"""Minimum length of such a text."""
MIN_TRUNCATED_CHARS = 20
"""Minimum length at which a truncated text is still recognized, in characters."""
KEPT_COLUMNS = frozenset(
    {"split", "table", "file", "source", "code", "kind", "finish_reason", "name", "experiment", "data_version"}
    | {"teacher", "teacher_fingerprint", "prompt_sha256", "template_sha256", "sampling", "copy_of", "subject"}
    | {"cluster"}
)
"""Columns that show where a row belongs, but nothing of its content."""
ID_COLUMNS = ("id", "item", "group")
"""Columns that contain the id of a row: its own, or (`item`: `ID:TURN`) that of the row that a model answered."""
TOKEN_COLUMNS = frozenset({"input_ids", "labels", "target_ids", "top_ids", "top_log_probabilities", "rest"})
"""Columns with the tokens of the column `answer`, and what a teacher said about them."""
PACKED_SOURCES = frozenset({"text", "replay"})
"""Sources of token rows that are blocks of several texts, without their ids."""
ROWS_PER_GROUP = 1 << 16
"""Rows in a row group of a redacted table."""
BATCH_ROWS = 4096
"""Rows of a table that are Python objects at a time."""
TEXT_SUFFIXES = frozenset({".md", ".html", ".txt", ".log", ".out", ".err", ".csv", ".yaml", ".yml", ".sql"})
"""Suffixes of files that are searched as plain text."""
WITHOUT_TEXT = {
    ".safetensors": "weights: they contain no row as text; the models that learned from a row are named",
    ".jinja": "a chat template, which comes with the model",
    ".png": "a plot: pixels",
}
"""Suffix of a file that is not searched → why."""

_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
_SURROGATE = re.compile("[\ud800-\udfff]")
Origin = tuple[str | None, str, int]
"""(table, file, row) of a row; the table is None where only the file is known."""


class UnknownFile(ValueError):
    """A file of a kind for which no way to remove texts is known."""


@dataclass(frozen=True)
class ErasedTexts:
    """The rows to erase and their texts."""

    markers: Mapping[str, str]
    """Row id → the erasure marker that replaces it."""
    texts: frozenset[str] = frozenset()
    """Texts of the rows that are in no other row."""
    cells: frozenset[str] = field(default_factory=frozenset)
    """All texts of the rows that are not empty, including those that are also in other rows."""
    kept: frozenset[str] = field(default_factory=frozenset)
    """Texts of other rows with which an erased text begins: they are no truncated ones."""
    origins: frozenset[Origin] = field(default_factory=frozenset)
    """Where the rows are in the snapshots that a file was made from."""
    packed: bool = False
    """Whether blocks of several texts (PACKED_SOURCES) may contain one of the rows."""

    @property
    def _forms(self) -> tuple[str, ...]:
        return _forms_of(self.texts)

    @cached_property
    def _short_forms(self) -> re.Pattern[str] | None:
        return _pattern_of_short(self.texts)

    def redact_text(self, text: str) -> str:
        """Return `text` without the erased texts, complete or truncated (by the end of a line or by an ellipsis)."""
        beginning = [form for form in self._forms if form[:MIN_TRUNCATED_CHARS] in text]
        for form in beginning:
            text = text.replace(form, PLACEHOLDER)
        for form in beginning:
            text = _remove_truncated(form, text, self.kept)
        if self._short_forms:
            text = self._short_forms.sub(PLACEHOLDER, text)
        for identity, marker in self.markers.items():
            text = text.replace(identity, marker)
        return text

    def may_be_in(self, text: str) -> bool:
        """Check quickly whether `text` may contain an erased text, id or origin. False is certain; True is not."""
        return (
            any(form[:MIN_TRUNCATED_CHARS] in text for form in self._forms)
            or bool(self._short_forms and self._short_forms.search(text))
            or any(row_id in text for row_id in self.markers)
            or any(json.dumps(file)[1:-1] in text for _, file, _ in self.origins)
            or any(json.dumps(cell) in text for cell in self.cells if len(cell) < MIN_CHARS)
        )

    def redact_value(self, value: Any) -> Any:
        """Return a JSON value with the erased texts removed from its strings and keys."""
        if isinstance(value, str):
            return self.redact_text(value)
        if isinstance(value, Mapping):
            texts = [item for item in value.values() if isinstance(item, str) and item]
            is_about_row = any(self.redact_text(text) != text for text in texts)
            return self.redact_row(value, about_row=is_about_row or (len(texts) > 1 and self.cells.issuperset(texts)))
        return [self.redact_value(item) for item in value] if isinstance(value, list) else value

    def redact_row(self, row: Mapping[str, Any], about_row: bool | None = None) -> dict[str, Any]:
        """Return a row of a table, or a JSON object, without the erased texts.

        If its id or its origin is that of an erased row, all of its texts are removed, except those in KEPT_COLUMNS.
        about_row: whether the short texts of erased rows are removed too; by default if another text is removed.
        """
        if self._is_erased(row):
            shown = {key: item for key, item in row.items() if key in KEPT_COLUMNS}
            ids = {key: self.redact_value(row[key]) for key in ID_COLUMNS if key in row}
            marked = {key: item for key, item in ids.items() if item != row[key]}
            no_tools = {"tools": None} if "tools" in row else {}
            return {**{key: _blank(item) for key, item in row.items()}, **no_tools, **shown, **marked}
        redacted = {self.redact_text(key): self.redact_value(item) for key, item in row.items()}
        if redacted.get("answer") != row.get("answer"):  # a teacher may repeat an example: its tokens go with the text
            redacted |= {key: [] for key in TOKEN_COLUMNS & row.keys()}
        if not (redacted != row if about_row is None else about_row):
            return redacted
        # What contains one of the texts, or nothing else, is about the row: short cells and prompt hash go too.
        short = {
            key: PLACEHOLDER
            for key, item in row.items()
            if isinstance(item, str) and item in self.cells and key not in KEPT_COLUMNS
        }
        return {**redacted, **short, **({"group": ""} if row.get("group") else {})}

    def _is_erased(self, row: Mapping[str, Any]) -> bool:
        ids = [row[name].partition(":")[0] for name in ID_COLUMNS if isinstance(row.get(name), str)]
        origin = (row.get("table"), row.get("file"), row.get("row"))
        has_origin = isinstance(origin[0], str | None) and isinstance(origin[1], str) and isinstance(origin[2], int)
        is_packed = self.packed and row.get("source") in PACKED_SOURCES
        return is_packed or (has_origin and origin in self.origins) or not self.markers.keys().isdisjoint(ids)

    def redact_file(self, path: Path, target: Path) -> bool:
        """Write the file without the erased texts to `target` if it contains any, and return whether it does.

        The suffix selects the method. Raises UnknownFile.
        """
        if path.suffix == ".parquet":
            return self._redact_parquet(path, target)
        if path.suffix in WITHOUT_TEXT:
            return False
        before = path.read_bytes()
        if path.suffix == ".json":
            after = self._redact_json(before)
        elif path.suffix == ".jsonl":
            after = b"\n".join(map(self._redact_json, before.split(b"\n")))
        elif path.suffix in TEXT_SUFFIXES:
            after = self.redact_plain_text(before)
        else:
            raise UnknownFile(f"there is no way to remove texts from files like {path.name}")
        if after != before:
            target.write_bytes(after)
        return after != before

    def is_in_file(self, path: Path) -> bool:
        """Return whether a file contains a long erased text, in UTF-8 or UTF-16."""
        if not path.stat().st_size:
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(form.encode(encoding)) >= 0 for form in self._forms for encoding in _ENCODINGS)

    def is_in_table(self, path: Path) -> bool:
        """Return whether a Parquet file contains an erased text."""
        with open_parquet(path, memory_map=True) as file:
            tables = (pa.Table.from_batches([batch]) for batch in file.iter_batches(BATCH_ROWS))
            near = (table.to_pylist() for table in tables if self._may_be_in_table(table))
            return any(self.redact_row(row) != row for rows in near for row in rows)

    def redact_plain_text(self, content: bytes) -> bytes:
        """Return the bytes of a text without the erased texts."""
        text = content.decode("utf-8", "surrogateescape")
        return self.redact_text(text).encode("utf-8", "surrogateescape")

    def _redact_json(self, content: bytes) -> bytes:
        try:
            value = json.loads(content)
            redacted = self.redact_value(value)
        except (ValueError, RecursionError):
            return self.redact_plain_text(content)
        if redacted == value:
            return content
        indent = 2 if b"\n" in content.strip() else None
        return json.dumps(redacted, ensure_ascii=content.isascii(), indent=indent).encode("utf-8", "backslashreplace")

    def _redact_parquet(self, path: Path, target: Path) -> bool:
        """As redact_file. Only rows near an erased text become Python objects."""
        changed = False
        with open_parquet(path, memory_map=True) as file:
            tables = (pa.Table.from_batches([batch]) for batch in file.iter_batches(BATCH_ROWS))
            if not any(map(self._may_be_in_table, tables)):
                return False
            schema = pa.schema([column.with_nullable(True) for column in file.schema_arrow], file.schema_arrow.metadata)
            with pq.ParquetWriter(target, schema, compression="zstd") as writer:
                for batch in file.iter_batches(ROWS_PER_GROUP):
                    parts = []
                    for start in range(0, len(batch), BATCH_ROWS):
                        table = pa.Table.from_batches([batch.slice(start, BATCH_ROWS)])
                        rows = table.to_pylist() if self._may_be_in_table(table) else []
                        redacted = [self.redact_row(row) for row in rows]
                        changed |= redacted != rows
                        parts.append(pa.Table.from_pylist(redacted, schema) if redacted != rows else table.cast(schema))
                    writer.write_table(pa.concat_tables(parts))
        return changed

    def _may_be_in_table(self, table: pa.Table) -> bool:
        """Check quickly whether a table may contain an erased text, id or origin."""
        if self.packed and "source" in table.column_names:
            return True
        if {"file", "row"} <= set(table.column_names) and self.origins:
            of_file = pc.is_in(table["file"], pa.array({file for _, file, _ in self.origins}, pa.string()))
            if pc.any(pc.and_(of_file, pc.is_in(table["row"], pa.array({row for *_, row in self.origins})))).as_py():
                return True
        arrays = [array for column in table.columns for array in _string_arrays(column)]
        return any(pc.any(pc.match_substring_regex(array, self._probe)).as_py() for array in arrays)

    @cached_property
    def _probe(self) -> str:
        """A pattern of RE2 that matches the beginning of every erased text, and every id."""
        short = [self._short_forms.pattern] if self._short_forms else []
        cells = [f"^{re.escape(cell)}$" for cell in self.cells if len(cell) < MIN_CHARS and not _SURROGATE.search(cell)]
        return "|".join(
            [*map(re.escape, {form[:MIN_TRUNCATED_CHARS] for form in self._forms}), *short, *cells, *self.markers]
        )


@lru_cache(maxsize=4)
def _forms_of(texts: frozenset[str]) -> tuple[str, ...]:
    """Return the forms of each long text in a file, longest first."""
    return tuple(
        sorted({form for text in texts if len(text) >= MIN_CHARS for form in _forms(text)}, key=len, reverse=True)
    )


def _forms(text: str) -> Iterator[str]:
    """Yield a text as it may be in a file: plain, escaped once or twice for JSON, as Python quotes it, or for HTML."""
    if _SURROGATE.search(text):  # half a character is only in a file as an escape
        yield from (json.dumps(text)[1:-1], json.dumps(json.dumps(text)[1:-1])[1:-1])
        return
    for plain in {text, text.strip(), " ".join(text.split())}:
        escaped = html.escape(plain)
        yield from (plain, escaped, escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"))
        yield html.escape(plain, quote=False)
        yield repr(plain)[1:-1]
        for once in (json.dumps(plain, ensure_ascii=escape)[1:-1] for escape in (True, False)):
            yield from (once, json.dumps(once)[1:-1])


def _is_recognizable(text: str) -> bool:
    """Return whether a short text can be searched for: it has a space or letters beyond ASCII, so it is no keyword."""
    return (
        MIN_SHORT_CHARS <= len(text) < MIN_CHARS
        and any(map(str.isalpha, text))
        and (" " in text.strip() or not text.isascii())
    )


@lru_cache(maxsize=4)
def _pattern_of_short(texts: frozenset[str]) -> re.Pattern[str] | None:
    """Return a pattern (also of RE2) of the short texts that can be searched for; None if there are none."""
    forms = {form for text in texts if _is_recognizable(text) for form in _forms(text)}
    if not forms:
        return None
    return re.compile("|".join(_bounded(form) for form in sorted(forms, key=len, reverse=True)), re.ASCII)


def _bounded(form: str) -> str:
    """Return a pattern of the text that matches no part of an ASCII word."""
    first, last = (r"\b" if char.isascii() and char.isalnum() else "" for char in (form[0], form[-1]))
    return f"{first}{re.escape(form)}{last}"


def _remove_truncated(form: str, text: str, kept: Collection[str]) -> str:
    """Return `text` with each truncated occurrence of `form` replaced, except those in `kept`."""
    position = text.find(form[:MIN_TRUNCATED_CHARS])
    while position >= 0:
        length = _matching_chars(form, text, position)
        end = position + length
        ends = end == len(text) or text[end] in "…\n\"'"
        if length >= MIN_TRUNCATED_CHARS and ends and form[:length] not in kept:
            text = text[:position] + PLACEHOLDER + text[end:]
        position = text.find(form[:MIN_TRUNCATED_CHARS], position + 1)
    return text


def _matching_chars(form: str, text: str, position: int) -> int:
    """Return how many characters of `form` match `text` from `position`."""
    pairs = zip(text[position : position + len(form)], form, strict=False)
    return next((count for count, (left, right) in enumerate(pairs) if left != right), len(text) - position)


def _blank(item: Any) -> Any:
    """Return an item of an erased row without its texts. Lists of tokens are emptied."""
    if isinstance(item, str):
        return PLACEHOLDER
    if isinstance(item, Mapping):
        return {key: value if key == "role" else _blank_entry(key, value) for key, value in item.items()}
    if isinstance(item, list):
        return [_blank(value) for value in item if isinstance(value, (Mapping, str))]
    return item


def _blank_entry(key: str, value: Any) -> Any:
    """Return the value of a key of a turn or of a call without its texts. Arguments stay JSON text."""
    return json.dumps(PLACEHOLDER) if key == "arguments" and value is not None else _blank(value)


def _string_arrays(column: Any) -> list[Any]:
    """Return the string arrays within a column of any type."""
    arrays = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if pa.types.is_dictionary(chunk.type):
            arrays += _string_arrays(chunk.dictionary_decode())
        elif pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
            arrays.append(chunk)
        elif pa.types.is_struct(chunk.type):
            arrays += [array for child in chunk.flatten() for array in _string_arrays(child)]
        elif pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
            arrays += _string_arrays(chunk.flatten())
    return arrays
