"""The UI in a real browser: the graph, *Materialize all* from a clean instance, what an asset shows, a failed check, a
canceled run, the lineage from a score to a raw file."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from ft_pipeline_tests.end_to_end.project import small_project, workers, write_experiment
from ft_pipeline_tests.end_to_end.ui import Ui, chromium, materialize_all, open_lineage, serving, too_wide, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.waits,
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium"),
]
GROUPS = ("sources", "tables", "distillation", "training", "evaluation", "release")
RUN_SECONDS = 600


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = small_project(tmp_path_factory.mktemp("browser") / "shop")
    write_experiment(project, "long", project / "models" / "tiny", epochs=200)
    return project


@pytest.fixture(scope="module")
def ui(root: Path) -> Iterator[Ui]:
    with serving(root) as served:
        yield served


def save_screenshot(page: Page, name: str) -> None:
    """Save a screenshot for the docs if FT_SCREENSHOTS names a folder."""
    if folder := os.environ.get("FT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_graph_shows_its_groups_from_left_to_right(ui: Ui, page: Page) -> None:
    open_lineage(page, ui)
    boxes = [page.locator("foreignObject").get_by_text(group, exact=True).first.bounding_box() for group in GROUPS]
    lefts = [box["x"] for box in boxes if box]
    assert len(lefts) == len(GROUPS)
    assert lefts == sorted(lefts)


def test_materialize_all_succeeds_as_one_run(ui: Ui, page: Page) -> None:
    materialize_all(page, ui, "qlora")
    run = ui.wait_for_run(RUN_SECONDS)
    assert run["status"] == "SUCCESS"
    assert {"key": "dagster/partition", "value": "qlora"} in run["tags"]
    assert len(ui.runs()) == 1
    open_lineage(page, ui)
    save_screenshot(page, "lineage")


def test_an_asset_shows_its_table_and_its_chart(ui: Ui, page: Page) -> None:
    page.goto(f"{ui.url}/assets/comparison", wait_until="domcontentloaded")
    assert first_entry(page) == "leads" and shows_picture(page)
    page.get_by_text("Show Markdown").first.click()
    page.get_by_role("cell", name="qlora/merged").first.wait_for()
    save_screenshot(page, "comparison")
    page.keyboard.press("Escape")
    page.get_by_text("Show Markdown").nth(1).click()
    page.locator("img[src^='data:image/png']").first.wait_for()


def test_a_page_opens_with_what_a_person_wants_to_see(ui: Ui, page: Page) -> None:
    page.goto(f"{ui.url}/assets/adapter?partition=qlora", wait_until="domcontentloaded")
    assert first_entry(page) == "loss_curve" and shows_picture(page)
    page.goto(f"{ui.url}/assets/quarantine", wait_until="domcontentloaded")
    assert first_entry(page) == "reasons"
    assert page.get_by_text("Columns", exact=True).count() == 0, "they would be above it"
    page.goto(f"{ui.url}/assets/decision", wait_until="domcontentloaded")
    assert first_entry(page) == "verdict"


def test_nothing_on_an_assets_page_is_wider_than_its_place(ui: Ui, page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    nodes = ui.query("{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }")["assetNodes"]
    assets = [node["assetKey"]["path"][-1] for node in nodes if node["assetMaterializations"]]
    assert len(assets) > 20
    wide = {asset: too_wide(page, ui, asset) for asset in assets}
    assert page.get_by_text("Hide navigation").is_visible(), "the navigation is open"
    assert {asset: values for asset, values in wide.items() if values} == {}


def first_entry(page: Page) -> str:
    """The name of the first metadata entry on an asset's page."""
    header = page.locator("table").filter(has=page.get_by_text("Timestamp", exact=True)).first
    header.wait_for()
    return header.locator("tbody tr").first.locator("td").first.inner_text()


def shows_picture(page: Page) -> bool:
    """Whether a picture is drawn without a click."""
    picture = page.locator("img[src^='data:image/svg+xml']").first
    picture.wait_for()
    return bool(picture.evaluate("image => image.decode().then(() => image.naturalWidth > 100)"))


def test_the_report_opens_by_a_link_and_cannot_start_a_run(ui: Ui, page: Page) -> None:
    page.goto(f"{ui.url}/assets/report", wait_until="domcontentloaded")
    link = page.get_by_role("link", name="/report", exact=True).first
    assert link.get_attribute("href") == "/report"
    page.goto(f"{ui.url}/report")
    assert "qlora" in page.locator("body").inner_text()
    asked = """async () => {
        const body = JSON.stringify({query: '{ version }'});
        const headers = {'Content-Type': 'application/json'};
        try { return (await fetch('/graphql', {method: 'POST', body, headers})).status }
        catch (error) { return 'refused' }
    }"""
    assert page.evaluate(asked) in ("refused", 403)


def test_an_asset_shows_its_checks(ui: Ui, page: Page) -> None:
    page.goto(f"{ui.url}/assets/training_data?view=checks", wait_until="domcontentloaded")
    for check in ("every_turn_rendered", "no_over_length"):
        page.get_by_text(check).first.wait_for()
    page.get_by_text("Passed").first.wait_for()
    save_screenshot(page, "checks")


def test_the_lineage_of_a_score_reaches_the_raw_file(ui: Ui, page: Page) -> None:
    lineage = "view=lineage&lineageScope=upstream&lineageDepth=20"
    page.goto(f"{ui.url}/assets/scores?{lineage}", wait_until="domcontentloaded")
    page.locator("foreignObject").get_by_text("raw_alpaca", exact=True).first.wait_for()
    save_screenshot(page, "score_lineage")
    page.goto(f"{ui.url}/assets/raw_alpaca", wait_until="domcontentloaded")
    page.get_by_text("support_01.jsonl").first.wait_for()


def test_canceling_a_run_ends_its_trainer(ui: Ui, root: Path, page: Page) -> None:
    materialize_all(page, ui, "long")
    run_id = wait_until(lambda: [run["runId"] for run in ui.runs() if run["status"] == "STARTED"], "it started", 60)[0]
    page.goto(f"{ui.url}/runs/{run_id}", wait_until="domcontentloaded")
    page.get_by_text(re.compile(r"adapter \[long\]: [\d,]+/[\d,]+, .*loss")).first.wait_for(timeout=RUN_SECONDS * 1000)
    save_screenshot(page, "run")
    trainer = workers(root)
    assert len(trainer) == 2
    page.get_by_role("button", name="Terminate").first.click()
    page.get_by_role("button", name=re.compile("Terminate 1 run")).click()
    assert ui.wait_for_run(60)["status"] == "CANCELED"
    wait_until(lambda: not any(process.is_running() for process in trainer), "the trainer ended", 30)


def test_training_records_its_loss_in_the_event_log(ui: Ui) -> None:
    query = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
      assetObservations(limit: 50) { metadataEntries { label ... on FloatMetadataEntry { floatValue } } } } } }"""
    observations = ui.query(query, key={"path": ["adapter"]})["assetNodeOrError"]["assetObservations"]
    losses = [
        entry for observation in observations for entry in observation["metadataEntries"] if entry["label"] == "loss"
    ]
    assert losses
    assert all(entry["floatValue"] > 0 for entry in losses)


def test_the_graph_gets_the_table_of_a_first_file_which_is_read(ui: Ui, root: Path) -> None:
    query = "{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }"

    def made() -> dict[str, bool]:
        nodes = ui.query(query)["assetNodes"]
        return {node["assetKey"]["path"][-1]: bool(node["assetMaterializations"]) for node in nodes}

    assert "chat" not in made()
    (root / "data" / "raw" / "chat").mkdir(exist_ok=True)
    turns = [
        [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
        for ask, answer in (("Do you sell maps of the moors?", "Yes, at the desk."), ("Which boots?", "Tall ones."))
    ]
    rows = "".join(json.dumps({"messages": messages}) + "\n" for messages in turns)
    (root / "data" / "raw" / "chat" / "first.jsonl").write_text(rows, encoding="utf-8")
    wait_until(lambda: "chat" in made(), "the graph has the table", 60)
    wait_until(lambda: made()["chat"], "the table is made", 180)
    assert {"raw_chat", "chat", "conversations"} <= {name for name, is_made in made().items() if is_made}


def test_an_unreadable_file_fails_a_check_with_a_readable_reason(page: Page, tmp_path: Path) -> None:
    root = small_project(tmp_path / "broken")
    (root / "data" / "raw" / "alpaca" / "export.jsonl").write_bytes('[{"instruction": "Hi"'.encode("utf-16"))
    with serving(root) as ui:
        assert "qlora" in ui.partitions(), "the experiments are there when the UI is"
        materialize_all(page, ui, "qlora")
        assert ui.wait_for_run(RUN_SECONDS)["status"] == "FAILURE"
        page.goto(f"{ui.url}/assets/alpaca?view=checks", wait_until="domcontentloaded")
        page.get_by_text("all_files_readable").first.click()
        page.get_by_text(re.compile("export.jsonl.*UTF-16", re.DOTALL)).first.wait_for()
        save_screenshot(page, "check")
    shutil.rmtree(root)
