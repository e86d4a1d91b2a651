"""Build one table of all unused rows of all tables, and a summary for finding a row in it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.finished_tables import QUARANTINE
from ft_pipeline.tables.reason_codes import DUPLICATE_CODES, ROW_CODES
from ft_pipeline.tables.row_groups import RowGroupWriter
from ft_pipeline.tables.table_schemas import TableCheck

SCHEMA = QUARANTINE.arrow_schema
"""Columns of the quarantine."""
BATCH_ROWS = 4096
"""Rows in memory at a time."""
SAMPLES, MOST_SAMPLES = 3, 120
"""Maximum number of rows in the summary: per file and code, and in total."""
MOST_FILES = 300
"""Maximum number of files whose accounts are in the summary: those with the most unused rows. files.parquet has all."""
MOST_PLACES = 300
"""Maximum number of (file, code) pairs whose row numbers are in the summary."""
RANGES_CHARS = 280
"""Length to which a text of row numbers is cut."""


@dataclass(frozen=True)
class Part:
    """An artifact that sets rows aside: a table, or the conversations."""

    name: str
    folder: Path
    """Contains set_aside.parquet and, for a table, files.parquet."""
    version: str = ""
    """The fingerprint of that artifact."""


def build_quarantine(parts: Sequence[Part], out: Path) -> dict[str, Any]:
    """Write all rows that the parts set aside to rows.parquet in `out`.

    Returns the number of `rows`, `checks`, and the summary of QuarantineSummary.overview over all parts.
    """
    summary, rows, check = QuarantineSummary(), 0, TableCheck(QUARANTINE)
    with RowGroupWriter(out / "rows.parquet", SCHEMA, check.add, compression="zstd") as writer:
        for part in parts:
            summary.add_files(part)
            for batch in read_set_aside(part):
                writer.write_table(batch)
                summary.add(batch)
                rows += batch.num_rows
    return {"rows": rows, "checks": {"matches_schema": asdict(check.result())}, **summary.overview()}


def overview(part: Part) -> dict[str, Any]:
    """Return the summary of QuarantineSummary.overview for one table."""
    summary = QuarantineSummary()
    summary.add_files(part)
    for batch in read_set_aside(part):
        summary.add(batch)
    return summary.overview()


def read_set_aside(part: Part) -> Iterable[pa.Table]:
    """Yield the rows that a part set aside, in SCHEMA, in batches."""
    with open_parquet(part.folder / "set_aside.parquet") as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            for name, value in (("table", part.name), ("data_version", part.version)):
                if name not in table.column_names:
                    table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
            yield table.select(SCHEMA.names).cast(SCHEMA)


class QuarantineSummary:
    """Collects the account of each file and the set-aside rows of each reason."""

    def __init__(self) -> None:
        self._files: list[dict[str, Any]] = []
        self._rows: dict[tuple[str, str, str], list[np.ndarray]] = {}
        self._first: dict[tuple[str, str, str], list[dict[str, Any]]] = {}

    def add_files(self, part: Part) -> None:
        """Add the accounts of a table's files. Rows that a later step sets aside are counted separately."""
        path = part.folder / "files.parquet"
        if path.exists():
            self._files += [{"table": part.name, **row} for row in pq.read_table(path).to_pylist()]

    def add(self, batch: pa.Table) -> None:
        """Add rows that were set aside, in SCHEMA."""
        numbered = batch.append_column("at", pa.array(np.arange(batch.num_rows)))
        groups = numbered.group_by(["table", "file", "code"], use_threads=False)
        for group in groups.aggregate([("row", "list"), ("at", "list")]).to_pylist():
            key = (group["table"], group["file"], group["code"])
            self._rows.setdefault(key, []).append(np.array(group["row_list"], dtype=np.int64))
            if len(self._first) < MOST_SAMPLES or key in self._first:
                samples = self._first.setdefault(key, [])
                for position in group["at_list"][: SAMPLES - len(samples)]:
                    samples += batch.slice(position, 1).to_pylist()

    def overview(self) -> dict[str, Any]:
        """Return the summary of all rows added so far.

        reasons: code → number of rows, most frequent first. accounts: per file (of at most MOST_FILES) the numbers of
        rows read, accepted, quarantined and duplicate, and the reasons. where: the row numbers per file and code.
        first: the first rows of each file and code.
        """
        counts = {key: sum(map(len, rows)) for key, rows in self._rows.items()}
        reasons: dict[str, int] = {}
        for (_, _, code), count in counts.items():
            reasons[code] = reasons.get(code, 0) + count
        samples = sorted(
            (row for rows in self._first.values() for row in rows),
            key=lambda row: (row["table"], row["file"], row["row"]),
        )
        counts_of_file: dict[tuple[str, str], dict[str, int]] = {}
        for (table, file, code), count in counts.items():
            counts_of_file.setdefault((table, file), {})[code] = count
        return {
            "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
            "accounts": [
                _account(file, counts_of_file.get((file["table"], file["file"]), {})) for file in self._shown_files()
            ],
            "where": self._where(counts),
            "first": [{name: row[name] for name in FIRST} for row in samples[:MOST_SAMPLES]],
        }

    def _shown_files(self) -> list[dict[str, Any]]:
        """Return the files to show, in their order. Refused files come before files with unused rows."""
        if len(self._files) <= MOST_FILES:
            return self._files

        def rank(position: int) -> tuple[bool, int, int]:
            file = self._files[position]
            return file["status"] != "refused", -(file["quarantined"] + file["duplicates"]), position

        return [self._files[position] for position in sorted(sorted(range(len(self._files)), key=rank)[:MOST_FILES])]

    def _where(self, counts: Mapping[tuple[str, str, str], int]) -> list[dict[str, Any]]:
        order = sorted(counts, key=lambda key: (key[0], key[1], key[2] in DUPLICATE_CODES, -counts[key], key[2]))
        return [
            {
                "table": table,
                "file": file,
                "code": code,
                "count": counts[table, file, code],
                "rows": ranges(np.concatenate(self._rows[table, file, code])),
                "meaning": ROW_CODES.get(code, ""),
            }
            for table, file, code in order[:MOST_PLACES]
        ]


ACCOUNT = ("table", "file", "status", "read", "accepted", "quarantined", "duplicates")
FIRST = ("table", "file", "row", "code", "message", "raw")


def _account(file: Mapping[str, Any], count_by_code: Mapping[str, int]) -> dict[str, Any]:
    own = file["quarantined"] + file["duplicates"]
    by_code = sorted(count_by_code.items(), key=lambda item: (-item[1], item[0]))
    return {
        **{name: file[name] for name in ACCOUNT},
        "later": max(sum(count_by_code.values()) - own, 0),
        "reasons": ", ".join(f"{code} {count:,}" for code, count in by_code),
        "refused": f"{file['error_code']}: {file['error_message']}" if file["error_code"] else "",
    }


def ranges(rows: np.ndarray, limit: int = RANGES_CHARS) -> str:
    """Return row numbers as text with ranges, such as `3, 7–9, 12`, cut at `limit` characters."""
    rows = np.unique(rows)
    if not rows.size:
        return ""
    breaks = np.flatnonzero(np.diff(rows) > 1)
    begins, ends = rows[np.concatenate([[0], breaks + 1])], rows[np.concatenate([breaks, [len(rows) - 1]])]
    text, shown = "", 0
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        part = str(begin) if begin == end else f"{begin}–{end}" if end > begin + 1 else f"{begin}, {end}"
        if len(text) + len(part) > limit:
            return f"{text} and {len(rows) - shown:,} more"
        text += f", {part}" if text else part
        shown += end - begin + 1
    return text
