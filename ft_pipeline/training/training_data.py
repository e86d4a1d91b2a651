"""Worker of `training_data`: convert tables to the tokens and labels that the objective trains on, and audit them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoConfig

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.models.model_structure import context_window
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.objectives.rows import PreparedRows
from ft_pipeline.training.tokens.token_audit import build_report, failures

_TOKEN_LIST = pa.list_(pa.int32())
_SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("input_ids", _TOKEN_LIST), ("labels", _TOKEN_LIST)])
_PAIR_SCHEMA = pa.schema([*_SCHEMA, ("rejected_ids", _TOKEN_LIST), ("rejected_labels", _TOKEN_LIST)])


def run(job: Job) -> dict[str, Any]:
    """Write train.parquet, validation.parquet and audit.json. Inputs: base_model, conversations, and the tables of the
    objective: distilled and text (sft, if they are mixed in), preferences (dpo), text (cpt).

    No row is truncated or dropped silently. A row that is too long or wrong fails a check of the audit, which names
    file and row. Pairs and texts near a held-out row are left out and listed. UserError if a split has no row. Summary:
    audit.
    """
    settings = ExperimentSettings.model_validate(job.config["experiment"])
    tokenizer = load_tokenizer(job.inputs["base_model"])
    base = job.inputs["base_model"]
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False).get_text_config()
    window = context_window(config) or settings.training.max_length
    max_length = min(settings.training.max_length, window)
    limits = {"max_length": max_length, "vocabulary": config.vocab_size}
    prepared = OBJECTIVES[settings.objective].prepare_rows(job, settings, tokenizer, limits)
    audit = build_report(tokenizer, [*prepared.rows, *prepared.rejected], prepared.checks, **limits)
    report = {**audit, "left_out": list(prepared.left_out)}
    for split in ("train", "validation"):
        pq.write_table(_table(prepared, split), job.out / f"{split}.parquet", compression="zstd")
    (job.out / "audit.json").write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    _log(job, report, sum(report["rows"].values()))
    return {"audit": report}


def read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the rows of a `training_data` artifact: id, source, input_ids, labels. In pairs, these belong to the
    preferred answer, and rejected_ids, rejected_labels to the other one. UserError if the token audit did not pass."""
    report = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    if failed := failures(report):
        raise UserError("The training data failed the token audit. Fix these rows: " + "; ".join(failed))
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


def _log(job: Job, report: dict[str, Any], rows: int) -> None:
    """Log the audit: rows that were split or left out, failures and counts."""
    if report["split_by_turn"]:
        job.report.log(
            f"{report['split_by_turn']} rows contain one assistant turn each, as in generation: the chat template "
            "renders earlier turns differently"
        )
    if reasoning := report["reasoning"]["message"]:
        job.report.log(reasoning)
    for row in report["left_out"]:
        job.report.log(f"{row['file']}:{row['row']} is left out: {row['code']}, see {row['copy_of']}")
    for failure in failures(report):
        job.report.log(f"token audit failed: {failure}")
    job.report.log(f"{rows} rows, {report['tokens']:,} tokens, {report['trained_share']:.0%} of them trained")


def _table(prepared: PreparedRows, split: str) -> pa.Table:
    """Return the rows of a split as they are written."""
    rows = [row for row in prepared.rows if row.split == split]
    columns: dict[str, list[Any]] = {
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "input_ids": [row.encoded.input_ids for row in rows],
        "labels": [row.encoded.labels for row in rows],
    }
    if not prepared.rejected:
        return pa.table(columns, schema=_SCHEMA)
    rejected = [row for row in prepared.rejected if row.split == split]
    columns["rejected_ids"] = [row.encoded.input_ids for row in rejected]
    columns["rejected_labels"] = [row.encoded.labels for row in rejected]
    return pa.table(columns, schema=_PAIR_SCHEMA)
