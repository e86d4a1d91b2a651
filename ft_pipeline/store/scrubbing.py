"""Texts taken out of whatever holds them: strings, JSON values, Parquet tables, files."""

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
"""Shorter texts ("Yes, it is.") tell nobody apart: they go only where they fill a cell of a row that must go."""
CUT_CHARS = 20
"""The least that must be left of a text that was cut short to be known by."""
KEPT = frozenset(
    {"split", "table", "file", "source", "code", "kind", "finish_reason", "name", "item", "experiment", "data_version"}
    | {"teacher", "teacher_fingerprint", "prompt_sha256", "template_sha256", "sampling", "copy_of", "subject"}
)
"""Columns that say where a row belongs and nothing of what it says."""
TEXT_SUFFIXES = frozenset({".md", ".html", ".txt", ".log", ".csv", ".yaml", ".yml"})


@dataclass(frozen=True)
class ErasedTexts:
    """What is to be forgotten."""

    marks: Mapping[str, str]
    """Row id → the mark that takes its place."""
    texts: frozenset[str] = frozenset()
    """Texts of the rows that stand in no other row."""
    cells: frozenset[str] = field(default_factory=frozenset)
    """All texts of the rows, short and common ones too."""

    @cached_property
    def _forms(self) -> list[str]:
        """Each long text as it may stand in a file, longest first: plain, escaped once or twice for JSON, for HTML."""
        forms = set()
        for text in (text for text in self.texts if len(text) >= MIN_CHARS):
            once = {json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
            twice = {json.dumps(each)[1:-1] for each in once}
            forms |= {text, html.escape(text), *once, *twice}
        return sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        """`text` without them: each whole one, and each that is cut short at the end of the text or by an ellipsis."""
        for form in self._forms:
            if form[:MIN_CHARS] in text:
                text = _cut_out(text, form)
        for identity, mark in self.marks.items():
            text = text.replace(identity, mark)
        return text

    def may_be_in(self, text: str) -> bool:
        """A quick look: False means that nothing of them is there."""
        return any(form[:MIN_CHARS] in text for form in self._forms) or any(identity in text for identity in self.marks)

    def value(self, value: Any) -> Any:
        """A JSON value with its strings so treated."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, list) else value

    def content(self, name: str, content: bytes) -> bytes:
        """A file's bytes, by the ending of its name; files of other kinds (weights) as they are."""
        suffix = "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""
        if suffix == ".parquet":
            return self._parquet(content)
        if suffix == ".json":
            return self._json(content)
        if suffix == ".jsonl":
            return b"\n".join(self._json(line) for line in content.split(b"\n"))
        if suffix in TEXT_SUFFIXES:
            found = content.decode("utf-8", "surrogateescape")
            return self.text(found).encode("utf-8", "surrogateescape")
        return content

    def _json(self, content: bytes) -> bytes:
        try:
            value = json.loads(content)
        except ValueError:
            found = content.decode("utf-8", "surrogateescape")
            return self.text(found).encode("utf-8", "surrogateescape")
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
        schema = pa.schema([each.with_nullable(True) for each in table.schema], table.schema.metadata)
        pq.write_table(pa.Table.from_pylist(scrubbed, schema=schema), target, compression="zstd")
        return target.getvalue()

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A table's row: blank but for where it belongs if it is one of them by its id; else without their texts."""
        mark = self.marks.get(row.get("id") or "")
        if mark is not None:
            blank = {key: item if key in KEPT else _blank(item) for key, item in row.items()}
            return {**blank, "id": mark}
        scrubbed = {key: self.value(item) for key, item in row.items()}
        if scrubbed == row:
            return scrubbed
        # A row that holds one of the texts is about it: its short cells and its hash of the prompt go too.
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
    at = text.find(form[:MIN_CHARS])
    while at >= 0:
        length = _common(text, at, form)
        end = at + length
        cut = length >= CUT_CHARS and (end == len(text) or text[end] == "…")
        if length == len(form) or cut:
            text = text[:at] + GONE + text[end:]
            at += len(GONE)
        else:
            at += 1
        at = text.find(form[:MIN_CHARS], at)
    return text


def _common(text: str, at: int, form: str) -> int:
    """How many characters of `form` stand at a place."""
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
    """The string arrays within a column."""
    found = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        kind = chunk.type
        if pa.types.is_dictionary(kind):
            found += _strings(chunk.dictionary_decode())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found.append(chunk)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_struct(kind):
            parts = chunk.flatten()
            found += [text for part in (parts if isinstance(parts, list) else [parts]) for text in _strings(part)]
    return found
