"""What the benchmarks of training share: the embedded base model, and the shipped rows as tokens."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LENGTH = 512
"""Tokens of a row at most; the shipped rows are shorter."""
Conversations = list[list[dict[str, str]]]


class Silent:
    """A reporter that reports nothing."""

    def progress(self, step: int, total: int, **values: float) -> None:
        pass

    def log(self, message: str) -> None:
        pass


def shipped_files() -> list[str]:
    """The files of support rows in this repository."""
    return sorted(map(str, (ROOT / "data" / "raw" / "alpaca").glob("support_*.jsonl")))


def read_rows(files: list[str], count: int) -> Conversations:
    """The first `count` rows of Alpaca files (JSON or JSONL) as conversations."""
    rows: Conversations = []
    for name in files:
        text = Path(name).read_text(encoding="utf-8")
        items = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
        for item in items:
            question = "\n\n".join(part for part in (item["instruction"], item.get("input")) if part)
            rows.append([{"role": "user", "content": question}, {"role": "assistant", "content": item["output"]}])
    return rows[:count]


def convert_base(scratch: Path) -> Path:
    """The embedded model as a Hugging Face folder, new in `scratch`."""
    from ft_pipeline.job import Job
    from ft_pipeline.models import base_model

    out = scratch / "base"
    out.mkdir()
    base_model.run(Job("base_model", {"model": "embedded"}, {}, out, scratch, "cpu", Silent()))
    return out


def encode_rows(base: Path, rows: Conversations) -> list[dict[str, Any]]:
    """`input_ids` and `labels` of each conversation, as the pipeline makes them."""
    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.training.tokens.chat_tokens import encode, render_conversation

    tokenizer = load_tokenizer(base)
    encoded = encode(tokenizer, [text for row in rows for text in render_conversation(tokenizer, row)])
    return [{"input_ids": row.input_ids[:LENGTH], "labels": row.labels[:LENGTH]} for row in encoded]
