"""The rows of `training_data`, as a training and a merge read them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError

OF_EVERY_ROW, OF_PAIRS = ("id", "source", "input_ids", "labels"), ("rejected_ids", "rejected_labels")
"""Columns. Others depend on the objective (token_table.py)."""


def read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the rows of a `training_data` artifact: id, source, input_ids, labels. In pairs, these belong to the
    preferred answer, and rejected_ids, rejected_labels to the other one. Lists in further columns are numpy arrays.
    UserError if the token audit did not pass."""
    report = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    if failed := failures(report):
        raise UserError("The training data failed the token audit. Fix these rows: " + "; ".join(failed))
    table = pq.read_table(folder / f"{split}.parquet")
    lists = [column.name for column in table.schema if pa.types.is_list(column.type)]
    extra = {name: table[name] for name in lists if name not in OF_EVERY_ROW + OF_PAIRS}
    rows = table.drop_columns(list(extra)).to_pylist()
    for name, column in extra.items():
        for row, values in zip(rows, column, strict=True):
            row[name] = values.values.to_numpy()  # as Python objects, the distributions would take ten times as much
    return rows


def failures(report: dict[str, Any]) -> list[str]:
    """Return the messages of the checks of a token audit that failed."""
    return [f"{name}: {entry['message']}" for name, entry in report["checks"].items() if not entry["passed"]]
