"""Tables: bytes to rows, accepted or set aside with a reason, and rows to conversations with a split."""

import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ft_pipeline import pictures
from ft_pipeline.errors import UserError
from ft_pipeline.execution.metadata import column_schema, picture, table
from ft_pipeline.execution.steps import Check, Inputs, Making, step, versions_of
from ft_pipeline.project import FORMATS, read_jsonl
from ft_pipeline.settings import DataSettings
from ft_pipeline.sources.snapshot import CheckedOut, checkout, read_listing
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.collect import SourceFile
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.schemas import describe_columns

SHOWN_ROWS = 10
SET_ASIDE_SHOWN = 50
CONVERSATION_TABLES = ("alpaca", "sharegpt")
WHAT = {
    "alpaca": "Single-turn rows: instruction, input, output.",
    "sharegpt": "Multi-turn conversations.",
    "text": "Raw text for continued pretraining.",
    "preferences": "A prompt with a preferred and a rejected answer.",
    "unlabelled": "Prompts without answers, for the teacher.",
}
TABLE_CHECKS = (
    Check("all_files_readable", "No file of the folder is refused as a whole."),
    Check("rows_accounted_for", "read = accepted + quarantined + duplicates, for each file."),
    Check("quarantined_share", "The share of quarantined rows is under the ceiling (max_quarantined)."),
    Check("some_rows_accepted", "A folder that holds files gives at least one row."),
)


def _table_asset(data_format: str) -> dg.AssetsDefinition:
    @step(
        stage="tables",
        name=data_format,
        deps=[f"raw_{data_format}"],
        description=f"{WHAT[data_format]} Accepted rows; what was set aside is in `quarantine`, with its reason.",
        kinds={"pandera", "parquet"},
        code_version="3",
        checks=TABLE_CHECKS,
        build=lambda making: _build_table(making, data_format),
        show=_show_table,
    )
    def validated(at: Inputs) -> Spec:
        inputs = {"raw": at.artifact(f"raw_{data_format}").reference}
        config = {"format": data_format, "max_quarantined": at.project.settings.data.max_quarantined}
        return Spec(data_format, inputs, config, versions_of("pandera"))

    return validated


def _build_table(making: Making, data_format: str) -> dict[str, Any]:
    ceiling = making.spec.config["max_quarantined"]
    with tempfile.TemporaryDirectory(prefix="ft-table-") as folder:
        taken = checkout(read_listing(making.inputs["raw"]), making.store, Path(folder))
        report = build_table(data_format, [_source(each) for each in taken], making.out, max_quarantined=ceiling)
    return {**report.to_json(), "preview": report.preview}


def _source(taken: CheckedOut) -> SourceFile:
    entry = taken.entry
    if taken.path is None:
        refused = (entry.error_code or "not_found", entry.error_message or "cannot be read")
        return SourceFile(entry.name, Path(entry.name), "", refused=refused)
    return SourceFile(entry.name, taken.path, entry.sha256 or "", _sidecar(taken), data_dir=taken.path.parent)


def _sidecar(taken: CheckedOut) -> dict[str, Any] | None:
    if taken.sidecar_path is None:
        return None
    try:
        return yaml.safe_load(taken.sidecar_path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{taken.sidecar_path.name}, beside {taken.entry.name}, is not valid YAML: {error}") from None


def _show_table(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    counts = {key: summary[key] for key in ("read", "accepted", "quarantined", "duplicates", "reasons")}
    keys = ("file", "status", "read", "accepted", "quarantined", "duplicates", "error_message")
    shown: dict[str, Any] = {
        **counts,
        "dagster/row_count": summary["accepted"],
        "dagster/column_schema": column_schema(describe_columns(artifact.kind)),
        "files": table([{key: file[key] for key in keys} for file in summary["files"]]),
        "preview": table(summary["preview"]),
    }
    aside = read_set_aside(artifact)
    if aside:
        shown["set_aside"] = table(aside[:SET_ASIDE_SHOWN])
    if summary["warnings"]:
        shown["warnings"] = summary["warnings"]
    return shown


def read_set_aside(artifact: Artifact) -> list[dict[str, Any]]:
    """The first rows that a table set aside, for showing."""
    rows = pq.read_table(artifact.path / "set_aside.parquet").slice(0, SET_ASIDE_SHOWN).to_pylist()
    return [{key: row[key] for key in ("file", "row", "code", "message", "raw")} for row in rows]


table_assets = [_table_asset(data_format) for data_format in FORMATS]


@step(
    stage="tables",
    deps=CONVERSATION_TABLES,
    kinds={"duckdb", "parquet"},
    code_version="2",
    checks=[
        Check("rows_accounted_for", "read = accepted + set aside."),
        Check("no_prompt_straddles", "No prompt stands in two splits."),
        Check("every_split_has_rows", "Train, validation and test each have rows."),
    ],
    build=lambda making: _build_conversations(making),
    show=lambda artifact: _show_conversations(artifact),
)
def conversations(at: Inputs) -> Spec:
    """Alpaca and ShareGPT rows in one message schema, deduplicated across tables, each in its split for good."""
    settings = at.project.settings
    questions = read_jsonl(at.project.inside(settings.evaluation.general_questions))
    inputs = {name: at.passed(name).reference for name in CONVERSATION_TABLES}
    config = {
        "data": settings.data.model_dump(mode="json"),
        "general_questions": [str(row.get("query", "")) for row in questions],
    }
    return Spec("conversations", inputs, config, versions_of("rensa"))


def _build_conversations(making: Making) -> dict[str, Any]:
    report = build_conversations(
        making.inputs["alpaca"],
        making.inputs["sharegpt"],
        making.out,
        settings=DataSettings.model_validate(making.spec.config["data"]),
        general_questions=making.spec.config["general_questions"],
    )
    return report.to_json()


def _show_conversations(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    rows = pq.read_table(artifact.path / "rows.parquet", columns=["messages"]).to_pylist()
    lengths = [sum(len(message["content"].split()) for message in row["messages"]) for row in rows]
    edges, counts = pictures.histogram(lengths)
    return {
        "splits": summary["splits"],
        "tables": summary["tables"],
        "set_aside": summary["set_aside"],
        "dagster/row_count": summary["accepted"],
        "preview": table(summary["preview"]),
        "warnings": summary["warnings"] or None,
        "words": picture(
            pictures.length_histogram(edges, counts, "Words per conversation", "words"), "words per conversation"
        ),
    }


@step(
    stage="tables",
    deps=[*FORMATS, "conversations"],
    kinds={"duckdb", "parquet"},
    build=lambda making: _build_quarantine(making),
    show=lambda artifact: {
        "rows": artifact.summary["rows"],
        "reasons": artifact.summary["reasons"],
        "first": table(artifact.summary["first"]),
    },
)
def quarantine(at: Inputs) -> Spec:
    """Every row that is not used, of every table: file, row, reason, raw text. `ft sql "select * from quarantine"`."""
    return Spec("quarantine", {name: at.artifact(name).reference for name in (*FORMATS, "conversations")})


def _build_quarantine(making: Making) -> dict[str, Any]:
    parts = []
    for name, folder in making.inputs.items():
        part = pq.read_table(folder / "set_aside.parquet")
        if "table" not in part.column_names:
            part = part.add_column(0, "table", pa.array([name] * part.num_rows, pa.string()))
        version = making.spec.inputs[name][1]
        parts.append(part.append_column("data_version", pa.array([version] * part.num_rows, pa.string())))
    rows = pa.concat_tables(parts, promote_options="permissive")
    pq.write_table(rows, making.out / "rows.parquet", compression="zstd")
    codes = rows["code"].value_counts().to_pylist()
    reasons = {each["values"]: each["counts"] for each in sorted(codes, key=lambda each: -each["counts"])}
    first = rows.slice(0, SET_ASIDE_SHOWN).select(["table", "file", "row", "code", "message", "raw"]).to_pylist()
    return {"rows": rows.num_rows, "reasons": reasons, "first": first}
