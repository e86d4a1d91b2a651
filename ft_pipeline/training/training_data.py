"""Worker of `training_data`: conversations and distilled rows to tokens and labels, mixed, audited."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.experiments import ExperimentSettings
from ft_pipeline.job import Job
from ft_pipeline.models.chat import Message, with_prompt
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.tables.turns import plain
from ft_pipeline.training.audit import Row, audit, failures
from ft_pipeline.training.tokens import Lost, Rendered, encode, find_lost, render_conversation

_CHUNK = 1024
"""Conversations tokenised at a time: enough to keep the tokenizer's threads busy, little enough to report progress."""
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
    ]
)


def run(job: Job) -> dict[str, Any]:
    """Write train.parquet, validation.parquet and audit.json; inputs conversations, base_model, and distilled if any.

    Nothing is truncated and nothing is dropped: a row that breaks a rule fails a check of the audit, by file and row.
    UserError where a split has no row. Summary: audit.
    """
    settings = ExperimentSettings.model_validate(job.config["experiment"])
    tokenizer = load_tokenizer(job.inputs["base_model"])
    mixed = _mix(job, settings)
    rows: list[Row] = []
    for begin in range(0, len(mixed), _CHUNK):
        rows += _tokenise(tokenizer, mixed[begin : begin + _CHUNK], settings.data.system_prompt)
        job.report.progress(min(begin + _CHUNK, len(mixed)), len(mixed))
    for split in ("train", "validation"):
        _write(job.out / f"{split}.parquet", [row for row in rows if row.split == split])
    config = json.loads((job.inputs["base_model"] / "config.json").read_text(encoding="utf-8"))
    report = audit(tokenizer, rows, max_length=_longest(settings, config), vocabulary=config["vocab_size"])
    (job.out / "audit.json").write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    if report["split_by_turn"]:
        job.report.log(
            f"{report['split_by_turn']} rows hold one assistant turn of a conversation each, as generation sees it: "
            "the chat template renders earlier turns otherwise"
        )
    if reasoning := report["reasoning"]["message"]:
        job.report.log(reasoning)
    for failure in failures(report):
        job.report.log(f"token audit failed: {failure}")
    job.report.log(f"{len(rows)} rows, {report['tokens']:,} tokens, {report['trained_share']:.0%} of them trained")
    return {"audit": report}


def read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    """Rows of a `training_data` artifact: id, source, input_ids, labels. UserError if its token audit did not pass."""
    report = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    if failed := failures(report):
        raise UserError("the token audit of the training data did not pass; " + "; ".join(failed))
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


def _mix(job: Job, settings: ExperimentSettings) -> list[dict[str, Any]]:
    """Rows with `source` set, each source of the train split by its weight; validation is human and never weighted."""
    human = _read(job.inputs["conversations"], "human")
    distilled = _read(job.inputs["distilled"], "distilled") if "distilled" in job.inputs else []
    train = [row for row in human if row["split"] == "train"]
    validation = [row for row in human if row["split"] == "validation"]
    weights, seed = settings.data.weights, settings.training.seed
    mixed = weigh(train, weights.human, seed) + weigh(distilled, weights.distilled, seed)
    if not mixed or not validation:
        name = "training" if not mixed else "validation"
        raise UserError(
            f"no {name} rows: {len(train)} human rows × weight {weights.human:g} and {len(distilled)} distilled rows × "
            f"weight {weights.distilled:g} to train, {len(validation)} to validate; add data, or change data.weights "
            "of the experiment or the shares in project.yaml"
        )
    return mixed + validation


def weigh(rows: list[dict[str, Any]], weight: float, seed: int) -> list[dict[str, Any]]:
    """`rows` times `weight`: whole copies, then the seeded share of the rows with the lowest hash of their id."""
    copies, share = math.floor(weight), weight - math.floor(weight)
    order = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row['id']}".encode()).digest())
    return rows * copies + order[: round(share * len(rows))]


def _read(folder: Path, source: str) -> list[dict[str, Any]]:
    columns = ["id", "split", "file", "row", "messages"]
    rows = pq.read_table(folder / "rows.parquet", columns=columns).to_pylist()
    return [{**row, "source": source} for row in rows]


def _tokenise(tokenizer: Any, rows: list[dict[str, Any]], system_prompt: str | None) -> list[Row]:
    texts: list[tuple[dict[str, Any], Rendered, Lost | None]] = []
    for row in rows:
        messages = with_prompt(plain(row["messages"]), system_prompt, [])
        rendered = _render(tokenizer, row, messages)
        lost = [find_lost(messages, rendered), *[None] * (len(rendered) - 1)]  # once for each conversation
        texts += [(row, text, each) for text, each in zip(rendered, lost, strict=True)]
    encoded = encode(tokenizer, [rendered for _, rendered, _ in texts])
    return [
        Row(row["id"], row["source"], row["split"], row["file"], row["row"], rendered, tokens, lost)
        for (row, rendered, lost), tokens in zip(texts, encoded, strict=True)
    ]


def _render(tokenizer: Any, row: dict[str, Any], messages: list[Message]) -> list[Rendered]:
    try:
        return render_conversation(tokenizer, messages)
    except UserError as error:
        raise UserError(f"{row['file']}:{row['row']}: {error}") from error


def _longest(settings: ExperimentSettings, config: dict[str, Any]) -> int:
    return min(settings.training.max_length, config.get("max_position_embeddings") or settings.training.max_length)


def _write(path: Path, rows: list[Row]) -> None:
    columns = {
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "input_ids": [row.encoded.input_ids for row in rows],
        "labels": [row.encoded.labels for row in rows],
    }
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")
