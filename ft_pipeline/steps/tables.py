"""A table for each format: the rows of its folder that were accepted, and why the others were not."""

import contextlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer

from ft_pipeline.page import Columns, Lineage, Page, Table
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.yaml_file import later
from ft_pipeline.sources.local_folder import has_files
from ft_pipeline.sources.snapshot import LocalCopy, checkout, read_listing
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, Step, StepConfig, spec_of
from ft_pipeline.steps.shared.column_lineage import table_lineage
from ft_pipeline.steps.shared.formats_in_use import is_format_used
from ft_pipeline.steps.shared.table_pages import (
    MATCHES_SCHEMA,
    OF_FILES,
    OF_LOCATIONS,
    OF_ROWS,
    example_rows,
    language_table,
    warning_table,
)
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.excluded_rows import Excluded, read_excluded
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.finished_tables import table_of_format
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.registry import FORMATS, OPTIONAL, name_elsewhere
from ft_pipeline.tables.masking import require_presidio
from ft_pipeline.tables.quarantine import Part, overview
from ft_pipeline.tables.reading.sidecar import load_sidecar, parse_sidecar
from ft_pipeline.tables.reason_codes import Refused

ABOUT = """{0} These are the rows that were accepted.

**Look here** to read example rows, and to see how many of each file were used.

**If a check is red:** `set_aside_where` names the rows and the reason. Fix the file, write a sidecar, or accept the
loss with `data.max_quarantined`. Nothing after this table runs until its checks pass."""
CHECKS = (
    CheckSpec("all_files_readable", "No file of the folder is refused as a whole."),
    CheckSpec("rows_accounted_for", "read = accepted + quarantined + duplicates, for each file."),
    CheckSpec("quarantined_share", "The share of quarantined rows is within the limit (max_quarantined)."),
    CheckSpec("some_rows_accepted", "A folder with files yields at least one row."),
    MATCHES_SCHEMA,
)

SplitSettings = Annotated[DataSettings, PlainSerializer(DataSettings.config, return_type=dict)]
"""Settings of which a step's config has what all tables depend on."""


class Config(StepConfig):
    """How the files of a format are read, and what of their rows is left out."""

    format: str
    max_quarantined: float
    excluded: dict[str, Any]
    """Erased rows, as `Excluded.to_json` returns them."""
    mask: dict[str, list[str]] = later(default_factory=dict)
    """Format of a file → the kinds of personal data that are masked in it."""
    shares: SplitSettings | None = later(None)
    """Of conversational formats: of two duplicates, a held-out row is kept."""


def step_of_table(row_format: Format) -> Step:
    """Return the step that reads one format."""

    def spec(context: SpecContext) -> Spec:
        inputs = {"raw": context.artifact(f"raw_{row_format.name}")}
        for name in row_format.also_reads:
            if _has_files(context, f"raw_{name}", name):
                inputs[name] = context.artifact(f"raw_{name}")
        settings = context.project.settings.data
        config = Config(
            format=row_format.name,
            max_quarantined=settings.max_quarantined,
            excluded=read_excluded(context.project.root / "data", row_format.name).to_json(),
            mask=settings.masked((row_format.name, *row_format.also_reads)),
            shares=settings if row_format.is_conversational else None,
        )
        if config.mask:
            require_presidio()
        return spec_of(row_format.name, inputs, config, libraries=("pandera",))

    return Step(
        name=row_format.name,
        stage="tables",
        about=ABOUT.format(row_format.description),
        config=Config,
        spec=spec,
        deps=tuple(f"raw_{name}" for name in (row_format.name, *row_format.also_reads)),
        build=build,
        checks=CHECKS,
        page=page,
        kinds=frozenset({"pandera", "parquet"}),
        code_version="10",
        used=lambda project: is_format_used(project, row_format.name),
    )


def build(build: BuildContext) -> dict[str, Any]:
    """Read the files of one format, and accept their rows or set them aside."""
    config = Config.of(build.spec)
    with tempfile.TemporaryDirectory(prefix="ft-table-") as folder:
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
            max_quarantined=config.max_quarantined,
            shares=config.shares,
            excluded=Excluded.from_json(config.excluded),
            cache=cache,
            mask=config.mask,
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


def present(context: SpecContext, tables: Iterable[str]) -> list[str]:
    """Return the tables without those that are optional and have no files."""
    return [name for name in tables if name not in OPTIONAL or _has_files(context, name, name)]


def _has_files(context: SpecContext, asset: str, data_format: str) -> bool:
    """Return whether an asset has files of a format: as its artifact says, or the folder if there is none yet."""
    artifact = context.find(asset)
    return has_files(context.project.raw_folder(data_format)) if artifact is None else bool(artifact.summary["files"])


def page(artifact: Artifact) -> Page:
    """Return the page of a table: example rows, warnings, files, and what was set aside."""
    summary = artifact.summary
    declared = table_of_format(FORMATS[artifact.kind])
    unused_rows = overview(Part(artifact.kind, artifact.path))
    shown: dict[str, Any] = {
        "preview": example_rows(summary["preview"], declared),
        "warnings": warning_table(summary["warnings"]),
        **{key: summary[key] for key in ("read", "accepted", "quarantined", "duplicates")},
        "files": Table(_for_own_page(unused_rows["accounts"]), OF_FILES),
        "dagster/row_count": summary["accepted"],
        "dagster/column_lineage": Lineage(table_lineage(artifact.kind, summary.get("mapped", {}))),
        "dagster/column_schema": Columns(declared),
    }
    if unused_rows["where"]:
        shown["set_aside_where"] = Table(_for_own_page(unused_rows["where"]), OF_LOCATIONS)
        shown["set_aside_first"] = Table(_for_own_page(unused_rows["first"]), OF_ROWS)
    return shown | language_table(summary)


def _for_own_page(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what the page of their own table need not show: the table, and rows that later steps set
    aside."""
    return [{key: value for key, value in row.items() if key not in {"table", "later"}} for row in rows]


STEPS = [step_of_table(row_format) for row_format in FORMATS.values()]
