"""The table of a teacher's answers (answers.parquet), for every kind of teacher: one row per prompt and sample."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.accounts import CheckResult
from ft_pipeline.tables.finished_tables import FinishedTable
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS
from ft_pipeline.tables.formats.base import Column

BATCH_ROWS = 1000
"""Rows in memory at a time."""
TEACHER_ANSWERS = FinishedTable(
    "teacher_answers",
    (
        Column("id", "The prompt's id in `unlabelled`"),
        Column("sample", "Number of the answer among several answers to one prompt, from 0", pa.int16(), minimum=0),
        Column("prompt_messages", "The prompt that the teacher received", MESSAGES),
        TOOLS,
        TAGS,
        Column("answer", "The teacher's answer"),
        Column(
            "finish_reason",
            "length: cut off. context: prompt and answer together do not fit the model, which was not asked",
            values=("stop", "length", "context", "failed"),
        ),
        Column("failure", "Why it failed", nullable=True),
        Column("file", "The prompt's file"),
        Column("row", "The prompt's row number in the file", pa.int64(), minimum=1),
        Column("prompt_tokens", "Tokens of the prompt", pa.int32(), nullable=True),
        Column("answer_tokens", "Tokens of the answer", pa.int32(), nullable=True),
        Column("answered_at", "Time of an endpoint's answer (UTC, ISO 8601)", nullable=True),
        Column("request_id", "The endpoint's id of the request", nullable=True),
        Column("reply_model", "The model that the endpoint names", nullable=True),
        Column("reference", "The right answer to the prompt, if its row has one", nullable=True),
    ),
    unique=("file", "row", "sample"),
)
"""A local model's answers can be reproduced, so that their time has no meaning, and is not set."""
ANSWERS = TEACHER_ANSWERS.arrow_schema
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


def write_answers(rows: Iterable[dict[str, Any]], out: Path) -> dict[str, Any]:
    """Write answers.parquet into `out`, with one batch in memory at a time. Return the checks for the summary."""
    return {"matches_schema": asdict(write_rows(rows, out / FILE_NAME, TEACHER_ANSWERS))}


def write_rows(rows: Iterable[dict[str, Any]], path: Path, table: FinishedTable) -> CheckResult:
    """Write a Parquet file, with one batch in memory at a time. Return whether its rows are as declared."""
    from ft_pipeline.tables.table_schemas import TableCheck  # pandera takes a second to load

    remaining, schema, check = iter(rows), table.arrow_schema, TableCheck(table)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(remaining, BATCH_ROWS)):
            written = pa.Table.from_pylist(batch, schema=schema)
            check.add(written)
            writer.write_table(written)
    return check.result()
