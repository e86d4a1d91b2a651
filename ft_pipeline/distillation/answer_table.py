"""The table of a teacher's answers (answers.parquet), for every kind of teacher: one row per prompt and sample."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS

BATCH_ROWS = 1000
"""Rows in memory at a time."""
ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("sample", pa.int16()),
        ("prompt_messages", MESSAGES),
        ("tools", TOOLS.arrow_type),
        ("tags", TAGS.arrow_type),
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
        ("reference", pa.string()),
    ]
)
"""sample: number of the answer among several answers to one prompt, from 0. finish_reason: `stop`, `length` (cut off),
`context` (prompt and answer together do not fit the model, which was not asked) or `failed` (`failure` gives the
reason). answered_at (UTC, ISO 8601), request_id and reply_model are only set for an endpoint: a local model's answers
can be reproduced, so their time has no meaning. reference: the right answer to the prompt, if its row has one."""
FILE_NAME = "answers.parquet"


def read_prompts(unlabelled: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an `unlabelled` artifact, with one batch in memory at a time."""
    with open_parquet(unlabelled / "rows.parquet") as file:
        for batch in file.iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()


def count_prompts(unlabelled: Path) -> int:
    """Return the number of rows of an `unlabelled` artifact."""
    return pq.read_metadata(unlabelled / "rows.parquet").num_rows


def answer_row(row: dict[str, Any], sample: int, **answer: Any) -> dict[str, Any]:
    """Return a row of answers.parquet, from the prompt's row, the sample, and the columns of the answer."""
    origin = {"id": row["id"], "sample": sample, "file": row["file"], "row": row["row"]}
    prompt = {"prompt_messages": row["messages"], "tools": row.get("tools"), "tags": row.get("tags")}
    prompt["reference"] = row.get("reference")
    return {**origin, **prompt, **answer}


def too_long_prompt_columns(prompt_tokens: int) -> dict[str, Any]:
    """Return the columns of the answer for a prompt that does not fit the model."""
    return {"answer": "", "finish_reason": "context", "prompt_tokens": prompt_tokens, "answer_tokens": 0}


def calling_answer_columns(calls: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the columns of an answer that calls tools. It has no text that a model could learn."""
    failure = f"the answer calls the tool {calls[0]['name']}; distillation reads only texts"
    return {"answer": "", "finish_reason": "failed", "failure": failure}


def write_answers(rows: Iterable[dict[str, Any]], out: Path) -> None:
    """Write answers.parquet into `out`, with one batch in memory at a time."""
    write_rows(rows, out / FILE_NAME, ANSWERS)


def write_rows(rows: Iterable[dict[str, Any]], path: Path, schema: pa.Schema) -> None:
    """Write a Parquet file, with one batch in memory at a time."""
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(remaining, BATCH_ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
