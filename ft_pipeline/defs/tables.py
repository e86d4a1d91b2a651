"""Tables: from raw bytes to rows, accepted or set aside with a reason, and to conversations with a split."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from ft_pipeline import plotting
from ft_pipeline.defs.automation_conditions import FOLLOW_ALL_INPUTS, FOLLOW_SOUND_INPUTS
from ft_pipeline.defs.column_lineage import column_lineage, conversations_lineage, table_lineage
from ft_pipeline.execution.metadata import column_schema, picture, table
from ft_pipeline.execution.step import BuildContext, CheckSpec, SpecContext, versions_of
from ft_pipeline.execution.step_asset import step
from ft_pipeline.project import read_jsonl
from ft_pipeline.settings.project import DataSettings
from ft_pipeline.sources.snapshot import LocalCopy, checkout, read_listing
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.checks.content_checks import ACCOUNT_COLUMNS, QUARANTINE_COLUMNS, describe_columns
from ft_pipeline.tables.conversations import build_conversations, count_words
from ft_pipeline.tables.excluded_rows import Excluded, read_excluded
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.registry import CONVERSATIONAL, FORMATS
from ft_pipeline.tables.quarantine import Part, build_quarantine, overview
from ft_pipeline.tables.reading.sidecar import load_sidecar, parse_sidecar
from ft_pipeline.tables.reason_codes import Refused

WHY_NOT = (
    "accounts: row counts of each file. where: which of its rows have which fault. first: some of them, with their "
    "text. To see any other row: ft sql \"select code, message, raw from quarantine where file = 'FILE' and row = 12\""
)
TABLE_CHECKS = (
    CheckSpec("all_files_readable", "No file of the folder is refused as a whole."),
    CheckSpec("rows_accounted_for", "read = accepted + quarantined + duplicates, for each file."),
    CheckSpec("quarantined_share", "The share of quarantined rows is within the limit (max_quarantined)."),
    CheckSpec("some_rows_accepted", "A folder with files yields at least one row."),
)


def _table_asset(row_format: Format) -> dg.AssetsDefinition:
    @step(
        stage="tables",
        name=row_format.name,
        deps=[f"raw_{row_format.name}"],
        description=f"{row_format.description} The accepted rows; all others are in `quarantine`, with their reasons.",
        kinds={"pandera", "parquet"},
        automation=FOLLOW_SOUND_INPUTS,
        code_version="4",
        checks=TABLE_CHECKS,
        build=lambda making: _build_table(making, row_format.name),
        show=_show_table,
    )
    def validated(at: SpecContext) -> Spec:
        inputs = {"raw": at.artifact(f"raw_{row_format.name}").reference}
        excluded = read_excluded(at.project.root / "data", row_format.name)
        ceiling = at.project.settings.data.max_quarantined
        config = {"format": row_format.name, "max_quarantined": ceiling, "excluded": excluded.to_json()}
        return Spec(row_format.name, inputs, config, versions_of("pandera"))

    return validated


def _build_table(making: BuildContext, data_format: str) -> dict[str, Any]:
    ceiling = making.spec.config["max_quarantined"]
    excluded = Excluded.from_json(making.spec.config["excluded"])
    with tempfile.TemporaryDirectory(prefix="ft-table-") as folder:
        taken = checkout(read_listing(making.inputs["raw"]), making.store, Path(folder))
        cache = FolderCache(making.store.root / "cache" / "tables")
        files = [source_of(local_copy) for local_copy in taken]
        report = build_table(data_format, files, making.out, max_quarantined=ceiling, excluded=excluded, cache=cache)
    return {**report.to_json(), "preview": report.preview, "mapped": mapped_columns(files)}


def mapped_columns(files: Sequence[SourceFile]) -> dict[str, str]:
    """Return foreign column → field, from the sidecars of all files. A refused sidecar is skipped."""
    columns: dict[str, str] = {}
    for file in files:
        with contextlib.suppress(Refused):
            columns |= parse_sidecar(file.sidecar).columns
    return columns


def source_of(taken: LocalCopy) -> SourceFile:
    """Return a file of a snapshot as the tables read it, or with the reason why it cannot be read."""
    entry = taken.entry
    if entry.sha256 is None:
        refused = (entry.error_code or "not_found", entry.error_message or "cannot be read")
        return SourceFile(entry.name, Path(entry.name), "", refused=refused)
    source = SourceFile(entry.name, Path(entry.name), entry.sha256, fetch=partial(_fetch, taken))
    try:
        return replace(source, sidecar=load_sidecar(taken.sidecar_path) if taken.sidecar_path else None)
    except Refused as error:
        return replace(source, refused=(error.code, error.message))


def _fetch(taken: LocalCopy) -> Path:
    assert taken.path is not None
    return taken.path


def _show_table(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    columns = {name: text for name, _, text in describe_columns(artifact.kind)}
    unused = overview(Part(artifact.kind, artifact.path))
    shown: dict[str, Any] = {
        **{key: summary[key] for key in ("read", "accepted", "quarantined", "duplicates", "reasons")},
        "files_read": summary["files_read"],
        "files_from_cache": summary["files_from_cache"],
        "dagster/row_count": summary["accepted"],
        "dagster/column_schema": column_schema(describe_columns(artifact.kind)),
        "dagster/column_lineage": column_lineage(table_lineage(artifact.kind, summary.get("mapped", {}))),
        "files": table([_without_table(account) for account in unused["accounts"]], ACCOUNT_COLUMNS),
        "preview": table(summary["preview"], columns),
    }
    if unused["where"]:
        shown["set_aside_where"] = table([_without_table(place) for place in unused["where"]], ACCOUNT_COLUMNS)
        shown["set_aside_first"] = table([_without_table(row) for row in unused["first"]], QUARANTINE_COLUMNS)
    if summary["warnings"]:
        shown["warnings"] = summary["warnings"]
    return shown


def _without_table(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in {"table", "later"}}


table_assets = [_table_asset(row_format) for row_format in FORMATS.values()]


@step(
    stage="tables",
    deps=CONVERSATIONAL,
    kinds={"duckdb", "parquet"},
    automation=FOLLOW_SOUND_INPUTS,
    code_version="2",
    checks=[
        CheckSpec("rows_accounted_for", "read = accepted + set aside."),
        CheckSpec("no_prompt_straddles", "No prompt is in two splits."),
        CheckSpec("every_split_has_rows", "Train, validation and test each have rows."),
    ],
    build=lambda making: _build_conversations(making),
    show=lambda artifact: _show_conversations(artifact),
)
def conversations(at: SpecContext) -> Spec:
    """Alpaca and ShareGPT rows in one message schema, deduplicated across tables. The split of a row never changes."""
    settings = at.project.settings
    questions = read_jsonl(at.project.resolve_path(settings.evaluation.general_questions))
    inputs = {name: at.passed(name).reference for name in CONVERSATIONAL}
    config = {
        "data": settings.data.model_dump(mode="json"),
        "general_questions": [str(row.get("query", "")) for row in questions],
    }
    return Spec("conversations", inputs, config, versions_of("rensa"))


def _build_conversations(making: BuildContext) -> dict[str, Any]:
    report = build_conversations(
        {name: making.inputs[name] for name in CONVERSATIONAL},
        making.out,
        settings=DataSettings.model_validate(making.spec.config["data"]),
        general_questions=making.spec.config["general_questions"],
    )
    return report.to_json()


def _show_conversations(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    edges, counts = plotting.histogram(count_words(artifact.path))
    columns = describe_columns("conversations")
    return {
        "splits": summary["splits"],
        "tables": summary["tables"],
        "set_aside": summary["set_aside"],
        "dagster/row_count": summary["accepted"],
        "dagster/column_schema": column_schema(columns),
        "dagster/column_lineage": column_lineage(conversations_lineage()),
        "preview": table(summary["preview"], {name: text for name, _, text in columns}),
        "warnings": summary["warnings"] or None,
        "words": picture(
            plotting.length_histogram(edges, counts, "Words per conversation", "words"), "words per conversation"
        ),
    }


@step(
    stage="tables",
    deps=[*FORMATS, "conversations"],
    kinds={"duckdb", "parquet"},
    code_version="2",
    automation=FOLLOW_ALL_INPUTS,
    build=lambda making: build_quarantine(
        [Part(name, folder, making.spec.inputs[name][1]) for name, folder in making.inputs.items()], making.out
    ),
    show=lambda artifact: _show_quarantine(artifact),
)
def quarantine(at: SpecContext) -> Spec:
    """All unused rows of all tables: file, row, reason, raw text. Query: `ft sql "select * from quarantine"`."""
    return Spec("quarantine", {name: at.artifact(name).reference for name in (*FORMATS, "conversations")})


def _show_quarantine(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    return {
        "why_is_a_row_not_used": WHY_NOT,
        "accounts": table(summary["accounts"], ACCOUNT_COLUMNS),
        "where": table(summary["where"], ACCOUNT_COLUMNS),
        "first": table(summary["first"], QUARANTINE_COLUMNS),
        "reasons": dict(sorted(summary["reasons"].items(), key=lambda item: -item[1])),
        "dagster/row_count": summary["rows"],
        "dagster/column_schema": column_schema(describe_columns("quarantine")),
    }
