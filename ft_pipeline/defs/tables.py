"""Tables: from raw bytes to rows, accepted or set aside with a reason, and to conversations with a split."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg

from ft_pipeline.defs.automation_conditions import FOLLOW_ALL_INPUTS, FOLLOW_SOUND_INPUTS
from ft_pipeline.defs.task_inputs import task_files, task_inputs
from ft_pipeline.evaluation.scoring.task_files import read_task_texts
from ft_pipeline.execution.step_asset import step
from ft_pipeline.models.base_model import identify_model
from ft_pipeline.models.embeddings import open_embedder
from ft_pipeline.project import read_jsonl
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.sources.local_folder import has_files
from ft_pipeline.sources.snapshot import LocalCopy, checkout, read_listing
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, versions_of
from ft_pipeline.steps.table_pages import MATCHES_SCHEMA, conversations_metadata, quarantine_metadata, table_metadata
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables import ray_tables
from ft_pipeline.tables.accounts import RowWarning
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.excluded_rows import Excluded, read_excluded
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.file_task import map_files
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.registry import CONVERSATIONAL, FORMATS, OPTIONAL, name_elsewhere
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.tables.masking import require_presidio
from ft_pipeline.tables.moved_rows import count_moves, moves_warning
from ft_pipeline.tables.quarantine import Part, build_quarantine
from ft_pipeline.tables.reading.sidecar import load_sidecar, parse_sidecar
from ft_pipeline.tables.reason_codes import Refused
from ft_pipeline.tables.semantic import SemanticSearch

_TABLE_DESCRIPTION = """{0} These are the rows that were accepted.

**Look here** to read example rows, and to see how many of each file were used.

**If a check is red:** `set_aside_where` names the rows and the reason. Fix the file, write a sidecar, or accept the
loss with `data.max_quarantined`. Nothing after this table runs until its checks pass."""
TABLE_CHECKS = (
    CheckSpec("all_files_readable", "No file of the folder is refused as a whole."),
    CheckSpec("rows_accounted_for", "read = accepted + quarantined + duplicates, for each file."),
    CheckSpec("quarantined_share", "The share of quarantined rows is within the limit (max_quarantined)."),
    CheckSpec("some_rows_accepted", "A folder with files yields at least one row."),
    MATCHES_SCHEMA,
)


def _table_asset(row_format: Format) -> dg.AssetsDefinition:
    @step(
        stage="tables",
        name=row_format.name,
        deps=[f"raw_{name}" for name in (row_format.name, *row_format.also_reads)],
        description=_TABLE_DESCRIPTION.format(row_format.description),
        kinds={"pandera", "parquet"},
        automation=FOLLOW_SOUND_INPUTS,
        code_version="10",
        checks=TABLE_CHECKS,
        build=_build_table,
        show=table_metadata,
    )
    def validated_table(context: SpecContext) -> Spec:
        inputs = {"raw": context.artifact(f"raw_{row_format.name}").reference}
        for name in row_format.also_reads:
            if _has_files(context, f"raw_{name}", name):
                inputs[name] = context.artifact(f"raw_{name}").reference
        excluded = read_excluded(context.project.root / "data", row_format.name)
        max_quarantined = context.project.settings.data.max_quarantined
        config = {"format": row_format.name, "max_quarantined": max_quarantined, "excluded": excluded.to_json()}
        if mask := context.project.settings.data.masked((row_format.name, *row_format.also_reads)):
            require_presidio()
            config["mask"] = mask
        if row_format.is_conversational:
            config["shares"] = context.project.settings.data.config()
        return Spec(row_format.name, inputs, config, versions_of("pandera"))

    return validated_table


def _build_table(build: BuildContext) -> dict[str, Any]:
    max_quarantined = build.spec.config["max_quarantined"]
    shares = build.spec.config.get("shares")
    excluded = Excluded.from_json(build.spec.config["excluded"])
    with (
        ray_tables.connect() as cluster,
        # On a cluster, the nodes read the files from the store's file system.
        tempfile.TemporaryDirectory(prefix="ft-table-", dir=build.out if cluster else None) as folder,
    ):
        local_copies = checkout(read_listing(build.inputs["raw"]), build.store, Path(folder))
        cache = FolderCache(build.store.root, "tables")
        files = [source_file(local_copy) for local_copy in local_copies]
        for name in FORMATS[build.spec.kind].also_reads:
            if name in build.inputs:
                elsewhere = checkout(read_listing(build.inputs[name]), build.store, Path(folder) / name)
                files += [_of_other_format(source_file(local_copy), name) for local_copy in elsewhere]
        report = build_table(
            build.spec.kind,
            files,
            build.out,
            max_quarantined=max_quarantined,
            shares=DataSettings.model_validate(shares) if shares else None,
            excluded=excluded,
            cache=cache,
            map_files=cluster.map_files if cluster else map_files,
            shards=cluster.shards if cluster else None,
            mask=build.spec.config.get("mask", {}),
        )
    for warning in report.warnings:
        if warning.code == "many_duplicates":
            build.note(f"{warning.file}: {warning.message}")
    return {**report.to_json(), "preview": report.preview, "mapped": mapped_columns(files)}


def _of_other_format(source: SourceFile, data_format: str) -> SourceFile:
    return replace(source, name=name_elsewhere(data_format, source.name))


def mapped_columns(files: Sequence[SourceFile]) -> dict[str, str]:
    """Return foreign column → field, from the sidecars of all files. A refused sidecar is skipped."""
    columns: dict[str, str] = {}
    for file in files:
        with contextlib.suppress(Refused):
            columns |= parse_sidecar(file.sidecar).columns
    return columns


def source_file(local_copy: LocalCopy) -> SourceFile:
    """Return a file of a snapshot as the tables read it, or with the reason why it is refused."""
    entry = local_copy.entry
    if entry.sha256 is None:
        refused = (entry.error_code or "not_found", entry.error_message or "cannot be read")
        return SourceFile(entry.name, Path(entry.name), "", refused=refused)
    source = SourceFile(entry.name, Path(entry.name), entry.sha256, fetch=local_copy.reading)
    try:
        return replace(source, sidecar=load_sidecar(local_copy.sidecar_path) if local_copy.sidecar_path else None)
    except Refused as error:
        return replace(source, refused=(error.code, error.message))


table_assets = [_table_asset(row_format) for row_format in FORMATS.values()]


@step(
    stage="tables",
    deps=CONVERSATIONAL,
    kinds={"duckdb", "pandera", "parquet"},
    automation=FOLLOW_SOUND_INPUTS,
    code_version="7",
    checks=[
        CheckSpec("rows_accounted_for", "read = accepted + set aside."),
        CheckSpec("no_prompt_straddles", "No prompt is in two splits."),
        CheckSpec("every_split_has_rows", "Train, validation and test each have rows."),
        MATCHES_SCHEMA,
    ],
    build=lambda build: _build_conversations(build),
    show=conversations_metadata,
)
def conversations(context: SpecContext) -> Spec:
    """All conversations of the tables in one form, without duplicates, each in the train, validation or test split.

    **Look here** to read what is trained and what is tested, and to see the longest and the oddest rows. A row's split
    never changes.

    **If a check is red:** a split is empty, or a prompt is in two of them. Add rows, or change `data.test_share`
    (docs/splits.md).
    """
    settings = context.project.settings
    evaluation = settings.evaluation
    questions, texts = (
        read_jsonl(context.project.resolve_path(path))
        for path in (evaluation.general_questions, evaluation.general_texts)
    )
    inputs = {name: context.checked_artifact(name).reference for name in _present(context, CONVERSATIONAL)}
    config: dict[str, Any] = {
        "data": settings.data.config(),
        "general_questions": [[str(row.get("query", "")), _gold_answer(row)] for row in questions],
        "general_texts": [str(row.get("text", "")) for row in texts],
        "tasks": sorted(evaluation.task_names),
    }
    if semantic := settings.data.semantic_duplicates:
        model = identify_model(semantic.model, semantic.revision, context.store.file_hashes)
        config["semantic_duplicates"] = {**model, "similarity": semantic.similarity}
    return Spec("conversations", inputs | task_inputs(context, task_files(context)), config)


def _present(context: SpecContext, tables: Iterable[str]) -> list[str]:
    """Return the tables without those that are optional and have no files."""
    return [name for name in tables if name not in OPTIONAL or _has_files(context, name, name)]


def _has_files(context: SpecContext, asset: str, data_format: str) -> bool:
    """Return whether an asset has files of a format: as its artifact says, or the folder if there is none yet."""
    artifact = context.find(asset)
    return has_files(context.project.raw_folder(data_format)) if artifact is None else bool(artifact.summary["files"])


def _gold_answer(question: Mapping[str, Any]) -> str:
    """Return the right choice of a question of the general suite."""
    with contextlib.suppress(LookupError, TypeError):
        return str(question["choices"][question["gold"]])
    return ""


def _build_conversations(build: BuildContext) -> dict[str, Any]:
    config = build.spec.config
    tasks = build.inputs.get("tasks")
    task_texts, unread_tasks = read_task_texts(tasks, config["tasks"]) if tasks else ([], config["tasks"])
    with _semantic_search(build) as semantic:
        report = build_conversations(
            {name: build.inputs[name] for name in CONVERSATIONAL if name in build.inputs},
            build.out,
            settings=DataSettings.model_validate(config["data"]),
            suite=SuiteTexts.of(config["general_questions"], task_texts, config["general_texts"]),
            semantic=semantic,
        )
    moved = _moved_rows(build)
    for warning in moved:
        build.note(warning.message)
    report.warnings += moved
    if unread_tasks:
        message = (
            f"the documents of {', '.join(unread_tasks)} are not in evaluation.include_path, so that no row was "
            "compared with them"
        )
        report.warnings.append(RowWarning("tasks_not_compared", message))
    return report.to_json()


@contextlib.contextmanager
def _semantic_search(build: BuildContext) -> Iterator[SemanticSearch | None]:
    """Yield the search for rows of the same meaning, if the project asks for it."""
    settings = build.spec.config.get("semantic_duplicates")
    if settings is None:
        yield None
        return
    with open_embedder(settings["model"], settings["revision"]) as (embed, source):
        build.note(f"comparing the meaning of rows with {source}: every row is embedded, which takes a while")
        yield SemanticSearch(embed, settings["similarity"])


def _moved_rows(build: BuildContext) -> list[RowWarning]:
    """Return a warning if rows moved since the present conversations of the store, which these replace."""
    before = current_artifact(build.store, "conversations")
    if before is None:
        return []
    moves = count_moves(before.path, build.out)
    return [moves_warning(moves, before.spec, build.spec.to_json())] if moves else []


@step(
    stage="tables",
    deps=[*FORMATS, "conversations"],
    kinds={"duckdb", "parquet"},
    code_version="2",
    checks=[MATCHES_SCHEMA],
    automation=FOLLOW_ALL_INPUTS,
    build=lambda build: build_quarantine(
        [Part(name, folder, build.spec.inputs[name][1]) for name, folder in build.inputs.items()], build.out
    ),
    show=quarantine_metadata,
)
def quarantine(context: SpecContext) -> Spec:
    """Every row that is not used, with the reason: faulty rows, duplicates, and rows that show a held-out answer.

    **Look here** if fewer rows train than you expected. `reasons` counts them, `examples` shows some, `where`
    names all.

    **If it fails:** one of the tables before it failed. docs/formats.md says what to do about each reason.
    """
    tables = (*_present(context, FORMATS), "conversations")
    return Spec("quarantine", {name: context.artifact(name).reference for name in tables})
