"""Sources: snapshots by content of the user's folders under data/raw."""

from collections.abc import Callable
from functools import partial

import dagster as dg

from ft_pipeline.erasure.downloads import replace_erased_rows
from ft_pipeline.events import Progress
from ft_pipeline.execution.step_asset import step
from ft_pipeline.page import Columns, Table
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.remote.listing import Fetching
from ft_pipeline.sources.snapshot import Snapshot, read_listing, write_listing
from ft_pipeline.step import SpecContext
from ft_pipeline.steps.column_lineage import raw_schema
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.formats.registry import FORMATS

LISTED_FILES = 100
"""Number of files on the asset's page."""
_FILE_COLUMNS = {
    "name": "The file, relative to its folder",
    "bytes": "Its size",
    "error_message": "Why it cannot be read, and what to do",
    "source": "Where a remote file comes from",
    "revision": "The revision of a remote file",
    "sidecar": "The YAML file that says how to read it",
    "sha256": "Its content: the store keeps a copy under this hash",
}
_DESCRIPTION = """The files in data/raw/{0}, as they were at the last run.

**Look here** to see which files were read, and whether one is missing. The store keeps a copy of each, so that a score
can be traced to bytes that you have changed since.

**If it fails:** a remote source did not answer, or the folder cannot be read. The error names it. Fix that, and run
again."""


def _raw_asset(data_format: str) -> dg.AssetsDefinition:
    @step(
        stage="sources",
        name=f"raw_{data_format}",
        description=_DESCRIPTION.format(data_format),
        kinds={"file"},
        build=lambda build: write_listing(Snapshot.from_json(build.spec.config), build.out),
        show=_listing_metadata,
    )
    def raw_snapshot(context: SpecContext) -> Spec:
        folder, report = context.project.raw_folder(data_format), context.report
        fetching = None
        if report is not None:
            fetching = Fetching(
                report=partial(_report_download, report, f"raw_{data_format}"),
                clean=partial(replace_erased_rows, context.project, data_format),
            )
        return snapshot_folder(folder, context.store, fetching=fetching).spec(data_format)

    return raw_snapshot


def _report_download(report: Callable[[Progress], None], asset: str, source: str, size: int, total: int | None) -> None:
    """Report megabytes. If the total is unknown, the next one is taken for the last."""
    megabytes = -(-size // 1_000_000)
    total_megabytes = megabytes + 1 if total is None else -(-total // 1_000_000)
    report(Progress(asset, f"{asset}: MB of {source}", megabytes, total_megabytes))


def _listing_metadata(artifact: Artifact) -> dict[str, object]:
    files = [file.to_json() for file in read_listing(artifact).entries]
    files.sort(key=lambda file: not file.get("error_message"))
    used = [key for key in _FILE_COLUMNS if any(file.get(key) for file in files)]
    return {
        "listing": Table([{key: file.get(key, "") for key in used} for file in files[:LISTED_FILES]], _FILE_COLUMNS),
        "files": artifact.summary["files"],
        "bytes": artifact.summary["bytes"],
        "dagster/column_schema": Columns(raw_schema(artifact.kind.removeprefix("raw_"))),
    }


raw_assets = [_raw_asset(data_format) for data_format in FORMATS]
