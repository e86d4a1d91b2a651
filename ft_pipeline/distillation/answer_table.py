"""The teacher's answers as a table: one row per prompt and sample, streamed, whoever answered."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.tables.formats.arrow_schema import MESSAGES

BATCH = 1000
ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("sample", pa.int16()),
        ("prompt_messages", MESSAGES),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("failure", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("prompt_tokens", pa.int32()),
        ("answer_tokens", pa.int32()),
        ("answered_at", pa.string()),
        ("request_id", pa.string()),
        ("reply_model", pa.string()),
    ]
)
"""sample: which of several answers to one prompt, from 0. finish_reason: `stop`, `length` (cut off), `context` (prompt
and answer do not fit the model: never asked) or `failed`, and then `failure` says why. answered_at (UTC, ISO 8601),
request_id and reply_model are an endpoint's: what a local model answers can be made again, and when it was made says
nothing."""
FILE = "answers.parquet"


def read_prompts(unlabelled: Path) -> Iterator[dict[str, Any]]:
    """The rows of an `unlabelled` artifact, a batch in memory at a time."""
    with pq.ParquetFile(unlabelled / "rows.parquet") as file:
        for batch in file.iter_batches(BATCH):
            yield from batch.to_pylist()


def count_prompts(unlabelled: Path) -> int:
    return pq.read_metadata(unlabelled / "rows.parquet").num_rows


def answer_row(row: dict[str, Any], sample: int, **answer: Any) -> dict[str, Any]:
    """A row of answers.parquet: the prompt's row, and what became of it."""
    about = {"id": row["id"], "sample": sample, "file": row["file"], "row": row["row"]}
    return {**about, "prompt_messages": row["messages"], **answer}


def unasked(prompt_tokens: int) -> dict[str, Any]:
    """What stands for the answer to a prompt that does not fit the model."""
    return {"answer": "", "finish_reason": "context", "prompt_tokens": prompt_tokens, "answer_tokens": 0}


def write_answers(rows: Iterable[dict[str, Any]], out: Path) -> None:
    """Write answers.parquet into `out`, a batch in memory at a time."""
    with pq.ParquetWriter(out / FILE, ANSWERS, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=ANSWERS))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=ANSWERS))
