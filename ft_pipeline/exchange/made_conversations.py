"""Conversations made from preferences or references, for a project that has none to compare models on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft_pipeline.exchange.data_files import DataSet
from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.row_edits import dump, read_rows
from ft_pipeline.exchange.row_shapes import CannotHold, openai_row
from ft_pipeline.tables.formats.convert import convert
from ft_pipeline.tables.formats.registry import CONVERSATIONAL, FORMATS
from ft_pipeline.tables.reading.sidecar import parse_sidecar
from ft_pipeline.tables.reason_codes import Fault

MADE_OF = {
    "preferences": ("chosen", "the chosen answers", "Preference training does not train on them."),
    "unlabelled": ("reference", "the references, as answers", "Supervised training also trains on them."),
}
"""Format → the column that is the answer, what the file has, and what follows."""


def add_conversations(data_sets: list[DataSet], root: Path, report: ImportReport) -> None:
    """Write chat rows from pairs or references, if the project would have no conversations. Report what is missing."""
    if any(data.data_format in CONVERSATIONAL and (data.paths or data.remote) for data in data_sets):
        return
    made = sum(_make(data, path, root, report) for data in data_sets for path in data.copies)
    if not made:
        effect = (
            "There are no conversations to compare models on, so `ft run` stops at the splits. Put at least 50 into "
            "data/raw/chat, sharegpt or alpaca."
        )
        report.add("no_counterpart", "", "no conversations", "", effect)


def _make(data: DataSet, copy: Path, root: Path, report: ImportReport) -> int:
    if data.data_format not in MADE_OF:
        return 0
    column, what, effect = MADE_OF[data.data_format]
    rows = list(_rows(data, copy, column))
    if not rows:
        return 0
    target = root / "data" / "raw" / "chat" / f"{copy.stem}-{column}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(dump(row) + b"\n" for row in rows))
    ours = target.relative_to(root).as_posix()
    report.files.append(ours)
    if column == "reference" and data.is_test:
        target.with_suffix(".yaml").write_text("split: test\n", encoding="utf-8")
        report.files.append(target.with_suffix(".yaml").relative_to(root).as_posix())
        ours += "; split test"
    why = f"Ours compares models on conversations, so {what} are chat rows too ({len(rows):,}). {effect}"
    report.add("changed", data.source, f"{data.name}: no conversations", ours, why)
    return len(rows)


def _rows(data: DataSet, copy: Path, column: str) -> Iterator[dict[str, Any]]:
    """Yield the chat rows of a copied file. Unusable rows and references of rows with tools are left out."""
    row_format, sidecar = FORMATS[data.data_format], parse_sidecar(data.sidecar)
    for value in read_rows(copy):
        record = convert(row_format, value, sidecar) if isinstance(value, dict) else None
        if record is None or isinstance(record, Fault):
            continue
        cells = dict(zip(row_format.column_names, record, strict=True))
        answer = cells[column]
        if column == "reference":
            if not answer or cells["tools"]:
                continue
            turns = [*cells["messages"], {"role": "assistant", "content": answer}]
        else:
            turns = [*cells["prompt_messages"], *answer]
        try:
            yield openai_row(turns, cells["tools"])
        except CannotHold:
            continue
