"""Sources: snapshots by content of the user's folders under data/raw."""

from collections.abc import Callable
from functools import partial

import dagster as dg

from ft_pipeline.defs.column_lineage import raw_schema
from ft_pipeline.erasure.downloads import replace_erased_rows
from ft_pipeline.execution.events import Progress
from ft_pipeline.execution.metadata import column_schema, table
from ft_pipeline.execution.step import SpecContext
from ft_pipeline.execution.step_asset import step
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.remote.listing import Fetching
from ft_pipeline.sources.snapshot import Snapshot, read_listing, write_listing
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.formats.registry import FORMATS


def _raw_asset(data_format: str) -> dg.AssetsDefinition:
    @step(
        stage="sources",
        name=f"raw_{data_format}",
        description=f"A snapshot of the files in data/raw/{data_format}, and of the remote files named there.",
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
    keys = ("name", "bytes", "sha256", "sidecar", "error_message", "source", "revision")
    return {
        "files": artifact.summary["files"],
        "bytes": artifact.summary["bytes"],
        "dagster/column_schema": column_schema(raw_schema(artifact.kind.removeprefix("raw_"))),
        "listing": table([{key: file.get(key, "") for key in keys} for file in files[:100]]),
    }


raw_assets = [_raw_asset(data_format) for data_format in FORMATS]
