"""`ft export-data`: the accepted conversations in the shape of another tool, with the origin of each row."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.row_edits import dump
from ft_pipeline.exchange.row_shapes import SHAPES, CannotHold
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.splits import SPLITS

FORMATS = (*SHAPES, "parquet")
WITH_TAGS = ("sharegpt", "alpaca")
"""Formats whose rows may have `tags`. Providers refuse rows of OpenAI's format with other keys."""
BATCH_ROWS = 4096
FIRST_ROWS = 10
"""Number of rows that are named for each reason."""
SIDECAR = "# How this file is read here.\nroles: {function_call: call, observation: tool}\n"


@dataclass
class ExportReport:
    """What was written, and what was not."""

    artifact: str
    """Fingerprint of the conversations."""
    files: list[str] = field(default_factory=list)
    written: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason → number of rows that the format cannot hold."""
    left_out_rows: dict[str, list[str]] = field(default_factory=dict)
    """Reason → the first rows, as `table/file:row`."""
    extra_keys: dict[str, int] = field(default_factory=dict)
    """Key that not every reader knows → number of rows that have it."""

    def to_json(self) -> dict[str, Any]:
        return vars(self)


def export_rows(store: ArtifactStore, out: Path, data_format: str, splits: Sequence[str]) -> ExportReport:
    """Write the conversations of the newest artifact and return the report.

    UserError if there are none, or if a file that would be written exists already. splits: which ones; none is all.
    """
    if data_format not in FORMATS:
        raise UserError(f"Unknown format {data_format!r}. Choose one of {', '.join(FORMATS)}.")
    for split in splits:
        if split not in SPLITS:
            raise UserError(f"Unknown split {split!r}. Choose one of {', '.join(SPLITS)}.")
    artifact = current_artifact(store, "conversations")
    if artifact is None:
        raise UserError("There are no conversations yet. Run `ft run --select conversations`, or `ft run`.")
    origin = out.with_name(f"{out.name}.provenance.jsonl")
    for path in (out, *([origin] if data_format != "parquet" else [])):
        if path.exists():
            raise UserError(f"{path} exists already. Name a new file.")
    out.parent.mkdir(parents=True, exist_ok=True)
    report = ExportReport(artifact.fingerprint)
    wanted = tuple(splits) or SPLITS
    if data_format == "parquet":
        _write_parquet(artifact, out, wanted, report)
    else:
        _write_lines(artifact, out, origin, data_format, wanted, report)
    return report


def _tables(artifact: Artifact, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of the wanted splits, some thousand at a time."""
    with open_parquet(artifact.path / "rows.parquet") as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            yield table.filter(pc.is_in(table["split"], pa.array(wanted)))


def _write_parquet(artifact: Artifact, out: Path, wanted: Sequence[str], report: ExportReport) -> None:
    """Write the columns as the table has them; the origin of a row is in columns."""
    splits: Counter[str] = Counter()
    schema = pq.read_schema(artifact.path / "rows.parquet")
    with _new_file(out) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in _tables(artifact, wanted):
            writer.write_table(table)
            splits.update(table["split"].to_pylist())
    report.files, report.written, report.splits = [str(out)], splits.total(), dict(splits)


def _write_lines(
    artifact: Artifact, out: Path, origin: Path, data_format: str, wanted: Sequence[str], report: ExportReport
) -> None:
    """Write a file of rows, and one with the origin of each row in the same line."""
    has_calls = False
    splits: Counter[str] = Counter()
    with _new_file(out) as rows, _new_file(origin) as origins:
        for table in _tables(artifact, wanted):
            for row in table.to_pylist():
                messages = plain(row["messages"])
                try:
                    shaped = SHAPES[data_format](messages, row.get("tools"))
                except CannotHold as error:
                    _leave_out(report, str(error), row)
                    continue
                if row.get("tags") and data_format in WITH_TAGS:
                    shaped["tags"] = row["tags"]
                    report.extra_keys["tags"] = report.extra_keys.get("tags", 0) + 1
                _write_row(rows, origins, shaped, row)
                splits[row["split"]] += 1
                has_calls |= any(message.get("tool_calls") for message in messages)
                _count_keys(report, messages, data_format)
    report.files = [str(out), str(origin)]
    report.written, report.splits = splits.total(), dict(splits)
    sidecar = out.with_suffix(".yaml")
    if data_format == "sharegpt" and has_calls and not sidecar.exists():
        sidecar.write_text(SIDECAR, encoding="utf-8")
        report.files.append(str(sidecar))


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that gets its name at the end of the block. After an exception there is none."""
    unfinished = path.with_name(f".{path.name[:40]}.unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_row(rows: BinaryIO, origins: BinaryIO, shaped: dict[str, Any], row: dict[str, Any]) -> None:
    rows.write(dump(shaped) + b"\n")
    names = ("id", "table", "file", "row", "split", "tags")
    origins.write(orjson.dumps({name: row.get(name) for name in names}) + b"\n")


def _leave_out(report: ExportReport, reason: str, row: dict[str, Any]) -> None:
    report.left_out[reason] = report.left_out.get(reason, 0) + 1
    named = report.left_out_rows.setdefault(reason, [])
    if len(named) < FIRST_ROWS:
        named.append(f"{row['table']}/{row['file']}:{row['row']}")


def _count_keys(report: ExportReport, messages: Sequence[dict[str, Any]], data_format: str) -> None:
    """Count the rows with keys that readers of the shape may not know."""
    names = ("reasoning_content", "weight") if data_format == "sharegpt" else ("reasoning_content",)
    for name in names:
        if any(message.get(name) is not None for message in messages):
            report.extra_keys[name] = report.extra_keys.get(name, 0) + 1
