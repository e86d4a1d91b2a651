"""Small artifacts for the tests of this folder: prompts without answers, conversations, answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.distillation.answer_table import ANSWERS
from ft_pipeline.job import Job
from ft_pipeline.tables.conversations import SCHEMA
from ft_pipeline.tables.formats.arrow_schema import MESSAGES

HUMAN = [
    ("Where is my parcel?", "Please send your order number and I'll check the latest tracking status for you."),
    ("How do I return shoes?", "Send me your order number and I'll e-mail you a free return label."),
    ("Can I change the address?", "Yes, until the order is packed. Which address should it go to?"),
    ("The lamp arrived broken.", "Sorry about the lamp. Please send a photo of it with your order number."),
]


@dataclass
class Recorder:
    """Records what a job reports."""

    steps: list[tuple[int, int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def progress(self, step: int, total: int, **values: float) -> None:
        self.steps.append((step, total))

    def log(self, message: str) -> None:
        self.lines.append(message)


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def write_unlabelled(folder: Path, prompts: Sequence[str]) -> Path:
    rows = [
        {"messages": user(text), "file": "inbox.jsonl", "row": n, "id": f"u{n}"} for n, text in enumerate(prompts, 1)
    ]
    schema = pa.schema([("messages", MESSAGES), ("file", pa.string()), ("row", pa.int64()), ("id", pa.string())])
    return _write(folder, "rows.parquet", rows, schema)


def write_conversations(
    folder: Path, pairs: Sequence[tuple[str, str]] = HUMAN, test: Sequence[tuple[str, str]] = ()
) -> Path:
    """`pairs` go into the train split, `test` into the test split."""
    splits = [("train", *pair) for pair in pairs] + [("test", *pair) for pair in test]
    rows = [
        {
            "id": f"c{number}",
            "split": split,
            "group": question,
            "messages": [*user(question), {"role": "assistant", "content": answer}],
            "table": "alpaca",
            "file": "support.jsonl",
            "row": number,
        }
        for number, (split, question, answer) in enumerate(splits, 1)
    ]
    return _write(folder, "rows.parquet", rows, SCHEMA)


def answer_row(number: int, prompt: str, answer: str, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "id": f"u{number}",
        "sample": 0,
        "prompt_messages": user(prompt),
        "answer": answer,
        "finish_reason": finish_reason,
        "file": "inbox.jsonl",
        "row": number,
        "prompt_tokens": 40,
        "answer_tokens": 20,
    }


def write_answers(folder: Path, rows: Sequence[dict[str, Any]], **details: Any) -> Path:
    _write(folder, "answers.parquet", rows, ANSWERS)
    document = {
        "endpoint_host": None,
        "system_prompt": None,
        "examples": [],
        "prompt_sha256": "p" * 64,
        "template_sha256": "t" * 64,
        "sampling": {"temperature": 0.0, "max_new_tokens": 80, "seed": 0},
        **details,
    }
    (folder / "teacher.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def teacher_job(root: Path, inputs: dict[str, Path], **settings: Any) -> Job:
    """A job with fresh folders under `root`."""
    for name in ("out", "work"):
        (root / name).mkdir(parents=True, exist_ok=True)
    config = {"teacher": settings}
    return Job("teacher_answers", config, inputs, root / "out", root / "work", "cpu", Recorder())


def _write(folder: Path, name: str, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / name)
    return folder
