"""Remove texts from strings, JSON values, Parquet tables and files."""

import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

GONE = "[forgotten]"
MIN_CHARS = 12
"""Shorter texts ("Yes, it is.") identify no person. They are removed only where they fill a cell of an erased row."""
CUT_CHARS = 20
"""Minimum length at which a truncated text is still recognized."""
KEPT = frozenset(
    {"split", "table", "file", "source", "code", "kind", "finish_reason", "name", "item", "experiment", "data_version"}
    | {"teacher", "teacher_fingerprint", "prompt_sha256", "template_sha256", "sampling", "copy_of", "subject"}
)
"""Columns that show where a row belongs, but nothing of its content."""
TEXT_SUFFIXES = frozenset({".md", ".html", ".txt", ".log", ".csv", ".yaml", ".yml"})


@dataclass(frozen=True)
class ErasedTexts:
    """The rows to erase and their texts."""

    marks: Mapping[str, str]
    """Row id → the marker that replaces it."""
    texts: frozenset[str] = frozenset()
    """Texts of the rows that are in no other row."""
    cells: frozenset[str] = field(default_factory=frozenset)
    """All texts of the rows, including short and common texts."""

    @cached_property
    def _forms(self) -> list[str]:
        """The forms of each long text in a file, longest first: plain, escaped once or twice for JSON, or for HTML."""
        forms = set()
        for text in (text for text in self.texts if len(text) >= MIN_CHARS):
            once = {json.dumps(text, ensure_ascii=escape)[1:-1] for escape in (True, False)}
            twice = {json.dumps(escaped)[1:-1] for escaped in once}
            forms |= {text, html.escape(text), *once, *twice}
        return sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return `text` without the erased texts, complete or truncated (by the end of `text` or by an ellipsis)."""
        for form in self._forms:
            if form[:MIN_CHARS] in text:
                text = _cut_out(text, form)
        for identity, mark in self.marks.items():
            text = text.replace(identity, mark)
        return text

    def may_be_in(self, text: str) -> bool:
        """Check quickly whether `text` may contain an erased text or id. False is certain; True is not."""
        return any(form[:MIN_CHARS] in text for form in self._forms) or any(identity in text for identity in self.marks)

    def value(self, value: Any) -> Any:
        """Return a JSON value with the erased texts removed from its strings."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, list) else value

    def content(self, name: str, content: bytes) -> bytes:
        """Return a file's bytes without the erased texts. The suffix selects the method; weights are unchanged."""
        suffix = "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""
        if suffix == ".parquet":
            return self._parquet(content)
        if suffix == ".json":
            return self._json(content)
        if suffix == ".jsonl":
            return b"\n".join(self._json(line) for line in content.split(b"\n"))
        if suffix in TEXT_SUFFIXES:
            decoded = content.decode("utf-8", "surrogateescape")
            return self.text(decoded).encode("utf-8", "surrogateescape")
        return content

    def _json(self, content: bytes) -> bytes:
        try:
            value = json.loads(content)
        except ValueError:
            decoded = content.decode("utf-8", "surrogateescape")
            return self.text(decoded).encode("utf-8", "surrogateescape")
        scrubbed = self.value(value)
        if scrubbed == value:
            return content
        indent = 2 if b"\n" in content.strip() else None
        return json.dumps(scrubbed, ensure_ascii=False, indent=indent).encode()

    def _parquet(self, content: bytes) -> bytes:
        table = pq.read_table(io.BytesIO(content))
        rows = table.to_pylist() if self._may_hold(table) else []
        scrubbed = [self.row(row) for row in rows]
        if scrubbed == rows:
            return content
        target = io.BytesIO()
        schema = pa.schema([column.with_nullable(True) for column in table.schema], table.schema.metadata)
        pq.write_table(pa.Table.from_pylist(scrubbed, schema=schema), target, compression="zstd")
        return target.getvalue()

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a table's row: blank except for KEPT columns if its id is erased, else without the erased texts."""
        mark = self.marks.get(row.get("id") or "")
        if mark is not None:
            blank = {key: item if key in KEPT else _blank(item) for key, item in row.items()}
            return {**blank, "id": mark}
        scrubbed = {key: self.value(item) for key, item in row.items()}
        if scrubbed == row:
            return scrubbed
        # A row that contains one of the texts is about it: its short cells and its prompt hash are removed too.
        short = {key: GONE for key, item in row.items() if isinstance(item, str) and item in self.cells}
        return {**scrubbed, **short, **({"group": ""} if row.get("group") else {})}

    def _may_hold(self, table: pa.Table) -> bool:
        ids = pa.array(list(self.marks), pa.string())
        if "id" in table.column_names and pc.any(pc.is_in(table["id"], ids)).as_py():
            return True
        heads = [form[:MIN_CHARS] for form in self._forms]
        return any(
            pc.any(pc.match_substring(texts, head)).as_py()
            for texts in (text for column in table.columns for text in _strings(column))
            for head in heads
        )


def _cut_out(text: str, form: str) -> str:
    position = text.find(form[:MIN_CHARS])
    while position >= 0:
        length = _common(text, position, form)
        end = position + length
        cut = length >= CUT_CHARS and (end == len(text) or text[end] == "…")
        if length == len(form) or cut:
            text = text[:position] + GONE + text[end:]
            position += len(GONE)
        else:
            position += 1
        position = text.find(form[:MIN_CHARS], position)
    return text


def _common(text: str, at: int, form: str) -> int:
    """Return how many characters of `form` match `text` from the position `at`."""
    if text.startswith(form, at):
        return len(form)
    pairs = zip(text[at : at + len(form)], form, strict=False)
    return next((count for count, (here, wanted) in enumerate(pairs) if here != wanted), len(text) - at)


def _blank(item: Any) -> Any:
    if isinstance(item, str):
        return GONE
    if isinstance(item, Mapping):
        return {key: value if key == "role" else _blank(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_blank(value) for value in item if isinstance(value, (Mapping, str))]  # lists of tokens are emptied
    return item


def _strings(column: Any) -> list[Any]:
    """Return the string arrays within a column."""
    arrays = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        kind = chunk.type
        if pa.types.is_dictionary(kind):
            arrays += _strings(chunk.dictionary_decode())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            arrays.append(chunk)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_struct(kind):
            parts = chunk.flatten()
            arrays += [text for part in (parts if isinstance(parts, list) else [parts]) for text in _strings(part)]
    return arrays
