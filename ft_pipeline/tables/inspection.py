"""The rows of a table that a person should look at first: the longest and the oddest."""

import heapq
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.store.text_redaction import MIN_TRUNCATED_CHARS
from ft_pipeline.tables.languages import row_languages
from ft_pipeline.tables.oddness import Statistics, explain, oddness, table_statistics
from ft_pipeline.tables.row_texts import longest_rows, row_batches, sample_rows

SAMPLED_ROWS = 20_000
"""Number of rows that the oddness of a row is measured against."""
ODD = 3.0
"""Deviation from which on a row is odd."""
SHOWN_CHARS = 200
"""Length to which texts are shortened. They keep their beginning, by which `ft erase` finds them."""
LISTED_ROW_COLUMNS = {
    "origin": "Table, file and row number",
    "language": "ISO 639 code. unknown: code, numbers, or too short to tell.",
    "why": "Why the row is listed",
    "prompt": "Its prompt, shortened",
    "answer": "Its answer, shortened",
}
"""Columns of a table of ListedRow in the UI, with descriptions."""


@dataclass(frozen=True)
class ListedRow:
    """One row to look at."""

    table: str
    file: str
    row: int
    id: str
    language: str
    """ISO 639 code, or `unknown`."""
    characters: int
    """Length of all texts of the row."""
    why: str
    prompt: str
    """Shortened, as is `answer`. Empty for a row of raw text."""
    answer: str

    @property
    def origin(self) -> str:
        return f"{self.table}/{self.file}:{self.row}" if self.file else "?"

    def to_json(self) -> dict[str, Any]:
        return {"origin": self.origin, **asdict(self)}


@dataclass(frozen=True)
class Inspection:
    """The rows of a table to look at first."""

    rows: int
    """Number of rows in the table."""
    searched: int
    """Number of rows among which the oddest were searched."""
    longest: list[ListedRow]
    oddest: list[ListedRow]
    """The oddest first. Empty if no row is odd."""

    def to_json(self) -> dict[str, Any]:
        lists = {name: [row.to_json() for row in getattr(self, name)] for name in ("oddest", "longest")}
        return {"rows": self.rows, "searched": self.searched, **lists}


def inspect_rows(path: Path, table: str, count: int, *, all_rows: bool = True) -> Inspection:
    """Return the `count` longest and oddest rows of a rows.parquet.

    all_rows: search all rows for odd ones (two passes over the file), not only a sample of SAMPLED_ROWS.
    """
    rows = pq.read_metadata(path).num_rows
    sample = sample_rows(path, table, SAMPLED_ROWS)
    if not len(sample):
        return Inspection(rows, 0, [], [])
    statistics = table_statistics(sample)
    longest = longest_rows(path, table, count)
    median = pc.quantile(sample["characters"])[0].as_py()
    lengths = [f"{characters:,} characters (median {median:,.0f})" for characters in longest["characters"].to_pylist()]
    every = all_rows and len(sample) == SAMPLED_ROWS
    batches = row_batches(path, table) if every else iter(sample.to_batches())
    odd, reasons = _oddest(batches, statistics, count)
    return Inspection(rows, rows if every else len(sample), _listed(longest, lengths), _listed(odd, reasons))


def shorten(text: str) -> str:
    """Return the beginning of a text, of at most SHOWN_CHARS characters.

    It does not end with the first few characters of another turn, which `ft erase` would not recognize.
    """
    if len(text) <= SHOWN_CHARS:
        return text
    kept = text[: SHOWN_CHARS - 1]
    lines, _, last = kept.rpartition("\n")
    return (lines if lines and len(last) < MIN_TRUNCATED_CHARS else kept) + "…"


def _oddest(batches: Iterator[pa.RecordBatch], statistics: Statistics, count: int) -> tuple[pa.Table, list[str]]:
    """Return the oddest rows, and why each is odd."""
    kept: list[tuple[float, str, str, int, dict[str, Any], str]] = []
    schema = None
    for batch in batches:
        schema = batch.schema
        deviations, values = oddness(batch, statistics)
        scores = deviations.max(axis=1)
        new = []
        for position in np.argsort(-scores, kind="stable")[:count].tolist():
            if scores[position] >= ODD:
                row = batch.slice(position, 1).to_pylist()[0]
                why = explain(deviations[position], values[position], statistics, ODD)
                new.append((-float(scores[position]), row["id"], row["file"], row["row"], row, why))
        kept = heapq.nsmallest(count, [*kept, *new], key=lambda item: item[:4])
    return pa.Table.from_pylist([item[4] for item in kept], schema=schema), [item[5] for item in kept]


def _listed(rows: pa.Table, reasons: list[str]) -> list[ListedRow]:
    return [
        ListedRow(
            **{name: row[name] for name in ("table", "file", "row", "id", "characters")},
            language=language,
            why=why,
            prompt=shorten(row["prompt"]),
            answer=shorten(row["answer"]),
        )
        for row, language, why in zip(rows.to_pylist(), row_languages(rows), reasons, strict=True)
    ]
