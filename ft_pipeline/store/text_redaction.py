"""Remove texts from strings, JSON values, Parquet tables and files."""

import html
import io
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PLACEHOLDER = "[forgotten]"
"""The text that replaces an erased one."""
MIN_CHARS = 12
"""Shorter texts ("Yes, it is.") identify no person. They are removed only if they fill a cell of a row that is erased,
or that contains a longer erased text."""
MIN_TRUNCATED_CHARS = 20
"""Minimum length at which a truncated text is still recognized, in characters."""
KEPT_COLUMNS = frozenset(
    {"split", "table", "file", "source", "code", "kind", "finish_reason", "name", "item", "experiment", "data_version"}
    | {"teacher", "teacher_fingerprint", "prompt_sha256", "template_sha256", "sampling", "copy_of", "subject"}
)
"""Columns that show where a row belongs, but nothing of its content."""
TEXT_SUFFIXES = frozenset({".md", ".html", ".txt", ".log", ".csv", ".yaml", ".yml"})
"""Suffixes of files that are searched as plain text."""


@dataclass(frozen=True)
class ErasedTexts:
    """The rows to erase and their texts."""

    markers: Mapping[str, str]
    """Row id → the erasure marker that replaces it."""
    texts: frozenset[str] = frozenset()
    """Texts of the rows that are in no other row."""
    cells: frozenset[str] = field(default_factory=frozenset)
    """All texts of the rows, including those that are also in other rows."""

    @cached_property
    def _forms(self) -> list[str]:
        """The forms of each long text in a file, longest first: plain, escaped once or twice for JSON, or for HTML."""
        forms = set()
        for text in (text for text in self.texts if len(text) >= MIN_CHARS):
            once = {json.dumps(text, ensure_ascii=escape)[1:-1] for escape in (True, False)}
            twice = {json.dumps(escaped)[1:-1] for escaped in once}
            forms |= {text, html.escape(text), *once, *twice}
        return sorted(forms, key=len, reverse=True)

    def redact_text(self, text: str) -> str:
        """Return `text` without the erased texts, complete or truncated (by the end of `text` or by an ellipsis)."""
        for form in self._forms:
            if form[:MIN_CHARS] in text:
                text = _remove(form, text)
        for identity, marker in self.markers.items():
            text = text.replace(identity, marker)
        return text

    def may_be_in(self, text: str) -> bool:
        """Check quickly whether `text` may contain an erased text or id. False is certain; True is not."""
        return any(form[:MIN_CHARS] in text for form in self._forms) or any(row_id in text for row_id in self.markers)

    def redact_value(self, value: Any) -> Any:
        """Return a JSON value with the erased texts removed from its strings and keys."""
        if isinstance(value, str):
            return self.redact_text(value)
        if isinstance(value, Mapping):
            return {self.redact_text(key): self.redact_value(item) for key, item in value.items()}
        return [self.redact_value(item) for item in value] if isinstance(value, list) else value

    def redact_file(self, name: str, content: bytes) -> bytes:
        """Return a file's bytes without the erased texts. The suffix selects the method; weights are unchanged."""
        suffix = "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""
        if suffix == ".parquet":
            return self._redact_parquet(content)
        if suffix == ".json":
            return self._redact_json(content)
        if suffix == ".jsonl":
            return b"\n".join(self._redact_json(line) for line in content.split(b"\n"))
        return self._redact_plain_text(content) if suffix in TEXT_SUFFIXES else content

    def _redact_plain_text(self, content: bytes) -> bytes:
        text = content.decode("utf-8", "surrogateescape")
        return self.redact_text(text).encode("utf-8", "surrogateescape")

    def _redact_json(self, content: bytes) -> bytes:
        try:
            value = json.loads(content)
        except ValueError:
            return self._redact_plain_text(content)
        redacted = self.redact_value(value)
        if redacted == value:
            return content
        indent = 2 if b"\n" in content.strip() else None
        return json.dumps(redacted, ensure_ascii=False, indent=indent).encode()

    def _redact_parquet(self, content: bytes) -> bytes:
        table = pq.read_table(io.BytesIO(content))
        rows = table.to_pylist() if self._may_be_in_table(table) else []
        redacted = [self.redact_row(row) for row in rows]
        if redacted == rows:
            return content
        target = io.BytesIO()
        schema = pa.schema([column.with_nullable(True) for column in table.schema], table.schema.metadata)
        pq.write_table(pa.Table.from_pylist(redacted, schema=schema), target, compression="zstd")
        return target.getvalue()

    def redact_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row of a table without the erased texts.

        If its id is one of the erased rows, all of its texts are removed, except those in KEPT_COLUMNS.
        """
        marker = self.markers.get(row.get("id") or "")
        if marker is not None:
            blank = {key: item if key in KEPT_COLUMNS else _blank(item) for key, item in row.items()}
            no_tools = {"tools": None} if "tools" in row else {}
            return {**blank, **no_tools, "id": marker}
        redacted = {key: self.redact_value(item) for key, item in row.items()}
        if redacted == row:
            return redacted
        # A row that contains one of the texts is about it: its short cells and its prompt hash are removed too.
        short = {key: PLACEHOLDER for key, item in row.items() if isinstance(item, str) and item in self.cells}
        prompt_hash = {"group": ""} if row.get("group") else {}
        return {**redacted, **short, **prompt_hash}

    def _may_be_in_table(self, table: pa.Table) -> bool:
        """Check quickly whether a table may contain an erased text or id."""
        ids = pa.array(list(self.markers), pa.string())
        if "id" in table.column_names and pc.any(pc.is_in(table["id"], ids)).as_py():
            return True
        beginnings = [form[:MIN_CHARS] for form in self._forms]
        arrays = itertools.chain.from_iterable(map(_string_arrays, table.columns))
        return any(pc.any(pc.match_substring(array, beginning)).as_py() for array in arrays for beginning in beginnings)


def _remove(form: str, text: str) -> str:
    """Return `text` with each complete or truncated occurrence of `form` replaced."""
    position = text.find(form[:MIN_CHARS])
    while position >= 0:
        length = _matching_chars(form, text, position)
        end = position + length
        truncated = length >= MIN_TRUNCATED_CHARS and (end == len(text) or text[end] == "…")
        if length == len(form) or truncated:
            text = text[:position] + PLACEHOLDER + text[end:]
            position += len(PLACEHOLDER)
        else:
            position += 1
        position = text.find(form[:MIN_CHARS], position)
    return text


def _matching_chars(form: str, text: str, position: int) -> int:
    """Return how many characters of `form` match `text` from `position`."""
    if text.startswith(form, position):
        return len(form)
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
            arrays += itertools.chain.from_iterable(map(_string_arrays, chunk.flatten()))
        elif pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
            arrays += _string_arrays(chunk.flatten())
    return arrays
