"""The table of a teacher's answers, for every kind of teacher: one row per prompt and sample, written as a stream."""

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
"""sample: number of the answer among several answers to one prompt, from 0. finish_reason: `stop`, `length` (cut off),
`context` (prompt and answer do not fit the model; never sent) or `failed` (`failure` gives the reason). answered_at
(UTC, ISO 8601), request_id and reply_model are only set for an endpoint: a local model's answers can be reproduced, so
the time of an answer has no meaning."""
FILE = "answers.parquet"


def read_prompts(unlabelled: Path) -> Iterator[dict[str, Any]]:
    """The rows of an `unlabelled` artifact, with one batch in memory at a time."""
    with pq.ParquetFile(unlabelled / "rows.parquet") as file:
        for batch in file.iter_batches(BATCH):
            yield from batch.to_pylist()


def count_prompts(unlabelled: Path) -> int:
    """Return the number of prompts in the table `unlabelled`."""
    return pq.read_metadata(unlabelled / "rows.parquet").num_rows


def answer_row(row: dict[str, Any], sample: int, **answer: Any) -> dict[str, Any]:
    """A row of answers.parquet: the prompt's row, the sample, and the columns of the answer."""
    about = {"id": row["id"], "sample": sample, "file": row["file"], "row": row["row"]}
    return {**about, "prompt_messages": row["messages"], **answer}


def unasked(prompt_tokens: int) -> dict[str, Any]:
    """The answer columns of a prompt that does not fit the model."""
    return {"answer": "", "finish_reason": "context", "prompt_tokens": prompt_tokens, "answer_tokens": 0}


def write_answers(rows: Iterable[dict[str, Any]], out: Path) -> None:
    """Write answers.parquet into `out`, with one batch in memory at a time."""
    with pq.ParquetWriter(out / FILE, ANSWERS, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=ANSWERS))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=ANSWERS))
