"""The raw files: a snapshot by content of each of the user's folders under data/raw."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ft_pipeline.events import Progress
from ft_pipeline.features import tell
from ft_pipeline.page import Columns, Page, Table
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.remote_listing import Fetching
from ft_pipeline.sources.snapshot import Snapshot, read_listing, write_listing
from ft_pipeline.step import BuildContext, SpecContext, Step
from ft_pipeline.steps.shared.column_lineage import raw_schema
from ft_pipeline.steps.shared.formats_in_use import is_format_used
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.formats.registry import FORMATS

LISTED_FILES = 100
"""Number of files on the asset's page."""
FILE_COLUMNS = {
    "name": "The file, relative to its folder",
    "bytes": "Its size",
    "error_message": "Why it cannot be read, and what to do",
    "source": "Where a remote file comes from",
    "revision": "The revision of a remote file",
    "sidecar": "The YAML file that says how to read it",
    "sha256": "Its content: the store keeps a copy under this hash",
}
ABOUT = """The files in data/raw/{0}, as they were at the last run.

**Look here** to see which files were read, and whether one is missing. The store keeps a copy of each, so that a score
can be traced to bytes that you have changed since.

**If it fails:** a remote source did not answer, or the folder cannot be read. The error names it. Fix that, and run
again."""


def step_of_folder(data_format: str) -> Step:
    """Return the step that reads the folder of one format."""

    def spec(context: SpecContext) -> Spec:
        folder, report = context.project.raw_folder(data_format), context.report
        fetching = None
        if report is not None:
            fetching = Fetching(
                report=partial(_report_download, report, f"raw_{data_format}"),
                clean=partial(tell, "downloaded", context.project, data_format),
            )
        return snapshot_folder(folder, context.store, fetching=fetching).spec(data_format)

    return Step(
        name=f"raw_{data_format}",
        stage="sources",
        about=ABOUT.format(data_format),
        spec=spec,
        build=build,
        page=page,
        kinds=frozenset({"file"}),
        used=lambda project: is_format_used(project, data_format),
    )


def _report_download(report: Callable[[Progress], None], asset: str, source: str, size: int, total: int | None) -> None:
    """Report megabytes. If the total is unknown, the next one is taken for the last."""
    megabytes = -(-size // 1_000_000)
    total_megabytes = megabytes + 1 if total is None else -(-total // 1_000_000)
    report(Progress(asset, f"{asset}: MB of {source}", megabytes, total_megabytes))


def build(build: BuildContext) -> dict[str, Any]:
    """List the files. The store has a copy of each already."""
    return write_listing(Snapshot.from_json(build.spec.config), build.out)


def page(artifact: Artifact) -> Page:
    """The files, those that cannot be read first."""
    files = [file.to_json() for file in read_listing(artifact).entries]
    files.sort(key=lambda file: not file.get("error_message"))
    used = [key for key in FILE_COLUMNS if any(file.get(key) for file in files)]
    return {
        "listing": Table([{key: file.get(key, "") for key in used} for file in files[:LISTED_FILES]], FILE_COLUMNS),
        "files": artifact.summary["files"],
        "bytes": artifact.summary["bytes"],
        "dagster/column_schema": Columns(raw_schema(artifact.kind.removeprefix("raw_"))),
    }


STEPS = [step_of_folder(data_format) for data_format in FORMATS]
