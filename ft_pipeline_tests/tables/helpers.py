"""Small raw files for the tests of the tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.tables.accounts import TableReport
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.validate import validate_file

GOOD = {
    "alpaca": [
        {"instruction": "Where is order 10400?", "input": "", "output": "It left our warehouse on Monday."},
        {"instruction": "How do I return a kettle?", "input": "", "output": "Press Return in My Orders, then post it."},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": "With the carrier."}]},
        {
            "conversations": [
                {"from": "human", "value": "A refund, please"},
                {"from": "gpt", "value": "It is on its way."},
            ]
        },
    ],
    "text": [
        {"text": "Returns are free within 14 days of delivery."},
        {"text": "Standard delivery takes three to five working days."},
    ],
    "preferences": [
        {"prompt": "Where is it?", "chosen": "With the carrier since noon.", "rejected": "No idea."},
        {"prompt": "A refund, please", "chosen": "It is on its way to you.", "rejected": "Perhaps later."},
    ],
    "unlabelled": [{"instruction": "Is the shop open today?"}, {"instruction": "Can I pay by card at the door?"}],
}


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows, one a line; bytes and str are written as they are."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def validate(path: Path, data_format: str, **options: Any) -> dict[str, Any]:
    """The JSON of `ft validate`."""
    return validate_file(path, data_format, data_dir=path.parent, **options).to_json()


def build(
    folder: Path,
    data_format: str,
    files: dict[str, Any],
    ceiling: float = 0.9,
    sidecars: dict[str, dict] | None = None,
    **options: Any,
) -> TableReport:
    """A table in folder/out from {file name: rows}."""
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    sources = [
        SourceFile(name, jsonl(raw / name, rows), "", (sidecars or {}).get(name)) for name, rows in files.items()
    ]
    return build_table(data_format, sources, folder / "out", max_quarantined=ceiling, **options)
