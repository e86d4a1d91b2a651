"""Small raw files for the tests of the tables."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pandera
import pyarrow.parquet as pq
import pytest

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.accounts import TableReport
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.tables.validate import validate_file

TRACK = {"id": "call_1", "type": "function", "function": {"name": "track", "arguments": '{"order": 7}'}}
TRACK_TOOL = {"type": "function", "function": {"name": "track", "description": "Find an order", "parameters": {}}}


def logged_call(question: str, answer: Any, **entries: Any) -> dict[str, Any]:
    """A line of a request log. answer: a text, or the whole message."""
    message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    choice = {"index": 0, "finish_reason": entries.pop("finish_reason", "stop"), "message": message}
    request = {"model": "m", "messages": [{"role": "user", "content": question}], **entries.pop("request", {})}
    response = entries.pop("response", {"id": "chatcmpl-1", "choices": [choice]})
    return {"request": request, "response": response, **entries}


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """Write one row per line. Bytes and strings are written unchanged."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def validate(path: Path, data_format: str, **options: Any) -> dict[str, Any]:
    """Return the JSON of `ft validate`."""
    return validate_file(path, data_format, data_dir=path.parent, **options).to_json()


def build(
    folder: Path,
    data_format: str,
    files: dict[str, Any],
    max_quarantined: float = 0.9,
    sidecars: dict[str, dict] | None = None,
    **options: Any,
) -> TableReport:
    """Build a table in folder/out from {file name: rows}."""
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    sources = [
        SourceFile(name, write_jsonl(raw / name, rows), "", (sidecars or {}).get(name)) for name, rows in files.items()
    ]
    return build_table(data_format, sources, folder / "out", max_quarantined=max_quarantined, **options)


def spy_on_pandera(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the number of rows that pandera sees from now on, by the name of their schema."""
    rows: Counter[str] = Counter()
    validate = pandera.DataFrameSchema.validate

    def spy(schema: pandera.DataFrameSchema, frame: pd.DataFrame, *args: Any, **options: Any) -> pd.DataFrame:
        rows[str(schema.name)] += len(frame)
        return validate(schema, frame, *args, **options)

    monkeypatch.setattr(pandera.DataFrameSchema, "validate", spy)
    return rows


SETTINGS = DataSettings(validation_share=0.2, test_share=0.2)
NO_SUITE = SuiteTexts()


def build_chat_tables(
    folder, alpaca_files, sharegpt_files=None, sidecars=None, settings=SETTINGS, suite=NO_SUITE, semantic=None
):
    """Build both chat tables and the conversations. Return the report, the rows and the rows that were set aside."""
    for name, files in (("alpaca", alpaca_files), ("sharegpt", sharegpt_files or {})):
        (folder / name).mkdir(exist_ok=True)
        build(folder / name, name, files, sidecars=sidecars, shares=settings)
    report = build_conversations(
        {name: folder / name / "out" for name in ("alpaca", "sharegpt")},
        folder / "out",
        settings=settings,
        suite=suite,
        semantic=semantic,
    )
    rows, set_aside = (pq.read_table(folder / "out" / f"{name}.parquet").to_pylist() for name in ("rows", "set_aside"))
    assert report.checks["rows_accounted_for"].passed and report.checks["no_prompt_straddles"].passed
    assert (len(rows), len(set_aside)) == (report.accepted, sum(report.set_aside.values()))
    json.dumps(report.to_json())
    return report, rows, set_aside
