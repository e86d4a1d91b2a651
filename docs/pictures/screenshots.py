"""Takes the screenshots in docs/images of a finished project, in Chromium.

    python docs/pictures/screenshots.py PROJECT            # all of them
    python docs/pictures/screenshots.py PROJECT comparison # some of them
    python docs/pictures/screenshots.py COPY --refresh     # of a project that an older version of the package made

The UI is started read-only: nothing runs in the project. Dagster's pages show what was recorded when an asset was
materialized; `--refresh` records it again as the present code would. Use that on a copy of the project. Run the script
in the environment of `make setup`.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
from PIL import Image
from playwright.sync_api import Page

from ft_pipeline.execution.metadata import artifact_metadata, clean_metadata, metadata_of_page
from ft_pipeline.execution.step_asset import ASSETS
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers

sys.path.append(str(Path(__file__).parents[2]))  # the tests, which start the UI and the browser, are not installed
from ft_pipeline_tests.end_to_end import ui

TARGET = Path(__file__).parents[1] / "images"
MAX_BYTES = 200_000
VIEW = {"width": 1280, "height": 900}
PATIENCE_SECONDS = 600
"""How long the UI may take to start, and a page to show what it is opened for, on a busy machine."""
PICTURE = "img[src^='data:image/svg+xml']"


def take(project: Path, names: Sequence[str]) -> None:
    """Write the screenshots of these names."""
    ui.START_SECONDS = PATIENCE_SECONDS
    with ui.serving(project, "--read-only") as served, ui.browsing() as browser:
        page = browser.new_page(viewport=VIEW)
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        for name in names:
            png = SCREENSHOTS[name](page, served.url, project)
            path = TARGET / f"{name}.png"
            path.write_bytes(small(png))
            print(f"{path}: {path.stat().st_size:,} bytes")
    (project / "ui.log").unlink()


def refresh(project: Path) -> None:
    """Record the metadata of every asset again, as the present code makes it."""
    os.environ |= {"FT_PROJECT": str(project), "DAGSTER_HOME": str(project / "dagster_home")}
    from ft_pipeline.definitions import defs

    defs()  # fills STEPS
    store = ArtifactStore(Project(project).store)
    assets = {step.name: step.per_experiment for step in STEPS.values()}
    index = ArtifactIndex(store.root)
    with dg.DagsterInstance.get() as instance:
        for pointer in sorted(AssetPointers(store.root).all(), key=lambda pointer: pointer.when):
            artifact, page = store.require(pointer.kind, pointer.fingerprint), STEPS[pointer.asset].page
            shown = metadata_of_page(page(artifact)) if page else {}
            metadata = clean_metadata(shown | artifact_metadata(artifact, index, assets, pointer.partition))
            key = ASSETS[pointer.asset].key
            tags = _recorded_tags(instance, key, pointer.partition)
            event = dg.AssetMaterialization(key, metadata=metadata, partition=pointer.partition, tags=tags)
            instance.report_runless_asset_event(event)


def _recorded_tags(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> dict[str, str]:
    """Return the data versions that the last materialization has recorded, so that nothing looks stale."""
    events = dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(events, limit=1).records
    recorded = records[0].asset_materialization if records else None
    return dict(recorded.tags or {}) if recorded else {}


def adapter(page: Page, url: str, project: Path) -> bytes:
    """Return the page of the adapter that was trained last: its loss curve."""
    pointers = [pointer for pointer in AssetPointers(Project(project).store).all() if pointer.asset == "adapter"]
    newest = max(pointers, key=lambda pointer: pointer.when)
    return _asset_page(page, f"{url}/assets/adapter?partition={newest.partition}", PICTURE)


def quarantine(page: Page, url: str, _: Path) -> bytes:
    """Return the page of the quarantine: the reasons and three rows."""
    return _asset_page(page, f"{url}/assets/quarantine", "text=see_any_row")


def comparison(page: Page, url: str, _: Path) -> bytes:
    """Return the page of the comparison: who is better than the untouched model."""
    return _asset_page(page, f"{url}/assets/comparison", PICTURE)


def recommendation(page: Page, url: str, _: Path) -> bytes:
    """Return the page of the recommendation: the verdict and its reasons."""
    return _asset_page(page, f"{url}/assets/recommendation", "text=reasons")


SCREENSHOTS: dict[str, Callable[[Page, str, Path], bytes]] = {
    "adapter": adapter,
    "quarantine": quarantine,
    "comparison": comparison,
    "recommendation": recommendation,
}


def _asset_page(page: Page, address: str, selector: str) -> bytes:
    """Return an asset's page from its description on, once it shows `selector`."""
    page.goto(address, wait_until="domcontentloaded")
    page.locator(selector).first.wait_for()
    page.get_by_text("Description", exact=True).first.evaluate("element => element.scrollIntoView()")
    page.wait_for_timeout(1000)
    return page.screenshot()


def small(png: bytes) -> bytes:
    """Return a picture with so few colors that it has at most MAX_BYTES."""
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    written = b""
    for colors in (256, 128, 64, 32):
        out = io.BytesIO()
        whole.quantize(colors).save(out, format="png", optimize=True)
        written = out.getvalue()
        if len(written) <= MAX_BYTES:
            break
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCREENSHOTS))
    parser.add_argument("--refresh", action="store_true", help="first record the metadata of all assets again")
    options = parser.parse_intermixed_args()
    if unknown := set(options.names) - set(SCREENSHOTS):
        parser.error(f"no screenshot {', '.join(sorted(unknown))}. Choose from: {', '.join(SCREENSHOTS)}.")
    if options.refresh:
        refresh(options.project.resolve())
    take(options.project.resolve(), options.names or list(SCREENSHOTS))
