"""Conversations made from preferences, thumbs up or references, for a project that has none to compare models on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft_pipeline.exchange.data_files import DataSet
from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.row_edits import dump, read_rows
from ft_pipeline.exchange.row_shapes import CannotHold, openai_row
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.raw_formats import CONVERSATIONAL
from ft_pipeline.tables.dedup.keys import groups_of, keys_of
from ft_pipeline.tables.formats.convert import convert
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.sidecar import parse_sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.splits import VALIDATION, place_in_splits

ONE_IN = 5
"""Of every five pairs, one is a test row. Another one is a conversation for supervised training and validation: a pair
near a held-out conversation is not trained, so that most pairs must not be conversations."""
SPLIT_TEST = "split: test\n"
_ANSWERS = {
    "chosen": ("chosen", "the chosen answers of every fifth pair"),
    "completion": ("good", "every fifth answer with a thumb up"),
}
"""Column → (part of the name of the file, which answers are test rows)."""


def add_conversations(data_sets: list[DataSet], root: Path, report: ImportReport, shares: DataSettings) -> None:
    """Write chat rows from pairs, thumbs or references, if there would be no conversations. Report what is missing.

    shares: the settings by which the project splits them.
    """
    if any(data.data_format in CONVERSATIONAL and (data.paths or data.remote) for data in data_sets):
        return
    made = 0
    for data in data_sets:
        for copy in data.copies:
            if data.data_format == "preferences":
                made += _from_answers(data, copy, root, report, "chosen", shares)
            elif data.data_format == "feedback":
                made += _from_answers(data, copy, root, report, "completion", shares)
            elif data.data_format == "unlabelled":
                made += _from_references(data, copy, root, report)
    if not made:
        effect = (
            "There are no conversations to compare models on, so `ft run` stops at the splits. Put at least 50 into "
            "data/raw/chat, sharegpt or alpaca."
        )
        report.add("no_counterpart", "", "no conversations", "", effect)


def _from_answers(
    data: DataSet, copy: Path, root: Path, report: ImportReport, column: str, shares: DataSettings
) -> int:
    """Write the answers of pairs (`chosen`), or those with a thumb up (`completion`). Return their number."""
    rows = list(_rows(data, copy, column))
    tests, others = rows[::ONE_IN], rows[1::ONE_IN]
    if not others:
        return 0
    if not _validation_rows(others, shares):
        # There are few, and `ft run` stops at an empty split. Only one: the others are needed as validation pairs.
        others += _validation_rows([row for first in range(2, ONE_IN) for row in rows[first::ONE_IN]], shares)[:1]
    name, those = _ANSWERS[column]
    test = _write(root, f"{copy.stem}-{name}-test.jsonl", tests, report, is_test=True)
    other = _write(root, f"{copy.stem}-{name}.jsonl", others, report)
    effect = (
        f"Ours compares models on conversations: {those} ({len(tests):,}) are test rows, and their prompts are not "
        f"trained. Those of another fifth ({len(others):,}) are chat rows."
    )
    report.add("changed", data.source, f"{data.name}: no conversations", f"{test}, {other}", effect)
    return len(rows)


def _validation_rows(rows: list[dict[str, Any]], shares: DataSettings) -> list[dict[str, Any]]:
    """Return the chat rows that the project will have in its validation split."""
    records = [(row, convert(FORMATS["chat"], row)) for row in rows]
    read = [(row, record) for row, record in records if not isinstance(record, Fault)]
    groups = groups_of(keys_of(FORMATS["chat"], [record for _, record in read]), shares)
    splits = place_in_splits(groups, shares)
    return [row for (row, _), split in zip(read, splits, strict=True) if split == VALIDATION]


def _from_references(data: DataSet, copy: Path, root: Path, report: ImportReport) -> int:
    rows = list(_rows(data, copy, "reference"))
    if not rows:
        return 0
    ours = _write(root, f"{copy.stem}-reference.jsonl", rows, report, is_test=data.is_test)
    use = "test rows" if data.is_test else "chat rows, which supervised training uses, and `objective: grpo`"
    effect = f"Ours compares models on conversations: the references are answers of {use} too ({len(rows):,})."
    report.add("changed", data.source, f"{data.name}: no conversations", ours, effect)
    return len(rows)


def _write(root: Path, name: str, rows: list[dict[str, Any]], report: ImportReport, *, is_test: bool = False) -> str:
    """Write chat rows, with a sidecar if they are test rows. Return the file's name in the project."""
    target = root / "data" / "raw" / "chat" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(dump(row) + b"\n" for row in rows))
    paths = [target]
    if is_test:
        paths.append(target.with_suffix(".yaml"))
        paths[1].write_text(SPLIT_TEST, encoding="utf-8")
    report.files += [path.relative_to(root).as_posix() for path in paths]
    return report.files[-len(paths)]


def _rows(data: DataSet, copy: Path, column: str) -> Iterator[dict[str, Any]]:
    """Yield the chat rows of a copied file. Unusable rows and references of rows with tools are left out."""
    row_format, sidecar = FORMATS[data.data_format], parse_sidecar(data.sidecar)
    for value in read_rows(copy):
        record = convert(row_format, value, sidecar) if isinstance(value, dict) else None
        if record is None or isinstance(record, Fault):
            continue
        cells = dict(zip(row_format.column_names, record, strict=True))
        answer = cells[column]
        if cells.get("label") is False:
            continue
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
