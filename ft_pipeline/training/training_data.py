"""Worker of `training_data`: convert tables to the tokens and labels that the objective trains on, and audit them."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoConfig

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.models.model_structure import context_window
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.tables.accounts import CheckResult
from ft_pipeline.tables.finished_tables import FinishedTable
from ft_pipeline.tables.relabels import TRAINED
from ft_pipeline.tables.row_groups import RowGroupWriter
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.objectives.rows import BATCH_ROWS, PreparedRows
from ft_pipeline.training.token_rows import OF_EVERY_ROW, OF_PAIRS, failures
from ft_pipeline.training.token_table import EXTRA_COLUMNS, token_table
from ft_pipeline.training.tokens.long_rows import LongRows
from ft_pipeline.training.tokens.token_audit import Row, TokenAudit


def run(job: Job) -> dict[str, Any]:
    """Write train.parquet, validation.parquet and audit.json. Inputs: base_model, conversations, and the tables of the
    objective: distilled and text (sft, if they are mixed in), preferences (dpo), feedback (kto), text (cpt),
    teacher_distributions (distill).

    No row is truncated or dropped silently. A row that is too long or wrong fails a check of the audit, which names
    file and row, unless `training.long_rows` leaves out or cuts long rows. Such rows are listed, and so are pairs and
    texts near a held-out row, which are left out. UserError if a split has no row. Summary: audit, checks.
    """
    settings = ExperimentSettings.model_validate(job.config["experiment"])
    tokenizer = load_tokenizer(job.inputs["base_model"])
    base = job.inputs["base_model"]
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False).get_text_config()
    window = context_window(config) or settings.training.max_length
    max_length = min(settings.training.max_length, window)
    limits = {"max_length": max_length, "vocabulary": config.vocab_size}
    prepared = OBJECTIVES[settings.objective].prepare_rows(job, settings, tokenizer, limits)
    long_rows = LongRows(settings.training.long_rows, max_length)
    audit, check = _write_rows(prepared, job, tokenizer, limits, long_rows)
    report = {**audit, "left_out": [*prepared.left_out, *long_rows.left_out()], **long_rows.report()}
    if labels := job.handling.get("relabels"):
        _write_relabels(job, labels)
    (job.out / "audit.json").write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    _log(job, report, sum(report["rows"].values()))
    return {"audit": report, "checks": {"matches_schema": asdict(check)}}


def _write_relabels(job: Job, labels: Mapping[str, str]) -> None:
    """Write which train rows have another label than their raw file, and which one. UserError if none has."""
    trained = set(pq.read_table(job.out / "train.parquet", columns=["id"])["id"].to_pylist())
    applied = {name: label for name, label in labels.items() if name in trained}
    if not applied:
        raise UserError(
            f"None of the {len(labels)} rows that were labeled again is trained. Run `ft relabel`, or remove "
            "data.relabels."
        )
    text = json.dumps(applied, indent=2, ensure_ascii=False)
    (job.out / TRAINED).write_text(text, encoding="utf-8")
    job.report.log(f"{len(applied)} of {len(labels)} rows that were labeled again are trained with their new label")


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
        detail = f"see {row['copy_of']}" if "copy_of" in row else f"{row['tokens']:,} tokens"
        job.report.log(f"{row['file']}:{row['row']} is left out: {row['code']}, {detail}")
    if message := report.get("long_rows", {}).get("message"):
        job.report.log(message)
    for failure in failures(report):
        job.report.log(f"token audit failed: {failure}")
    job.report.log(f"{rows} rows, {report['tokens']:,} tokens, {report['trained_share']:.0%} of them trained")


def _write_rows(
    prepared: PreparedRows, job: Job, tokenizer: Any, limits: dict[str, int], long_rows: LongRows
) -> tuple[dict[str, Any], CheckResult]:
    """Write the rows of both splits, with one batch of them in memory at a time. Return their audit, and whether they
    are as declared."""
    from ft_pipeline.tables.table_schemas import TableCheck, together  # pandera, which a training does not need

    sources = prepared.sources
    reasoning = job.config["experiment"]["data"].get("reasoning", "train")
    audits = [TokenAudit(**limits, reasoning=reasoning) for _ in sources]
    side_by_side = [range(len(sources))] if prepared.are_pairs else [[number] for number in range(len(sources))]
    declared = _declared(prepared)
    schema, checks = declared.arrow_schema, {split: TableCheck(declared) for split in ("train", "validation")}
    done, total = 0, sum(sources[numbers[0]].items for numbers in side_by_side)
    with contextlib.ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                RowGroupWriter(job.out / f"{split}.parquet", schema, check.add, compression="zstd")
            )
            for split, check in checks.items()
        }
        for numbers in side_by_side:
            for batch in range(sources[numbers[0]].batches):
                whole, made = long_rows.apply([sources[number].batch(batch) for number in numbers])
                for number, rows, cut in zip(numbers, whole, made, strict=True):
                    sources[number].check(rows)  # the whole rows: a cut only removes their end
                    audits[number].add(cut)
                for split, writer in writers.items():
                    writer.write_table(_table(made, split, schema))
                done = min(done + BATCH_ROWS, total)
                job.report.progress(done, total)
    long_rows.require_rows()
    check = together(*(check.result() for check in checks.values()))
    return _report(prepared, audits, tokenizer, long_rows), check


def _declared(prepared: PreparedRows) -> FinishedTable:
    """Return the table of the rows as they are written."""
    return token_table((*OF_EVERY_ROW, *(OF_PAIRS if prepared.are_pairs else prepared.extra_columns)))


def _report(
    prepared: PreparedRows, audits: Sequence[TokenAudit], tokenizer: Any, long_rows: LongRows
) -> dict[str, Any]:
    whole = audits[0]
    for audit in audits[1:]:
        whole.extend(audit)
    batch, position = whole.median_row()
    sources = prepared.sources
    batches = [(index, number) for index, source in enumerate(sources) for number in range(source.batches)]
    index, number = batches[batch]
    together = range(len(sources)) if prepared.are_pairs else [index]
    _, made = long_rows.apply([sources[each].batch(number) for each in together])
    return whole.report(tokenizer, prepared.checks(), made[list(together).index(index)][position])


def _table(made: Sequence[Sequence[Row]], split: str, schema: pa.Schema) -> pa.Table:
    """Return the rows of a split as they are written. `made`: the rows; for pairs, also the rejected answers."""
    rows, *rejected = ([row for row in rows if row.split == split] for rows in made)
    columns: list[list[Any]] = [[row.id for row in rows], [row.source for row in rows]]
    for side in (rows, *rejected):
        columns += [[row.encoded.input_ids for row in side], [row.encoded.labels for row in side]]
    columns += [[row.extra[name] for row in rows] for name in schema.names if name in EXTRA_COLUMNS]
    return pa.table(columns, schema=schema)
