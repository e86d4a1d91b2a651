"""HTML in rows, in a file name and in a worker's log, in a real browser: it is shown as text and does not run."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page

from ft_pipeline import scaffold
from ft_pipeline_tests.end_to_end.project import ft
from ft_pipeline_tests.end_to_end.ui import Ui, chromium, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.waits,
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium"),
]
IMAGE = "<img src=x onerror=window.owned=1>"
CELL = "<img src=x onerror=window.owned"
"""What a cell of a table shows of it."""
HTML = f"{IMAGE}<script>window.owned=1</script><svg onload=window.owned=1></svg>[click](javascript:window.owned=1)"
NAME = f"{IMAGE}\x1b[31m.jsonl"
TABLES = (
    "raw_alpaca,raw_sharegpt,raw_text,raw_preferences,raw_feedback,raw_unlabelled,"
    "alpaca,sharegpt,text,preferences,feedback,unlabelled"
)
LOG_TAIL = f"```\n{HTML}\n\n{HTML}\n```"


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The UI of a project whose tables are materialized; rows with HTML are accepted or set aside."""
    root = scaffold.create(tmp_path_factory.mktemp("hostile") / "shop", example=True)
    rows = [{"instruction": f"{HTML} Where is parcel {n}?", "output": f"{HTML} It is at the depot."} for n in range(5)]
    rows.append({"instruction": HTML, "output": ""})
    text = "".join(json.dumps(row) + "\n" for row in rows) + f'{{"{HTML}": \n'
    (root / "data" / "raw" / "alpaca" / NAME).write_text(text, encoding="utf-8")
    done = ft(root, "run", "--experiment", "qlora", "--select", f"{TABLES},conversations,quarantine")
    assert done.returncode == 0, done.stderr[-2000:]
    with serving(root) as served:
        _record_a_failed_step(root)
        yield served


def _record_a_failed_step(root: Path) -> None:
    """Record a step that ended with HTML in its log, as execution/build.py does."""
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        metadata = {"log": dg.MetadataValue.md(f"```\n{LOG_TAIL}\n```"), "said": HTML}
        instance.report_runless_asset_event(dg.AssetMaterialization("report", metadata=metadata))


def harmless(page: Page) -> bool:
    """Whether none of the data ran, became an element or became a link."""
    page.wait_for_timeout(500)
    planted = "img[src='x'], svg[onload], [onerror], a[href*='owned']"
    return page.evaluate("window.owned") is None and page.locator(planted).count() == 0


@pytest.mark.parametrize(
    ("asset", "shown"),
    [("quarantine", CELL), ("raw_alpaca", CELL), ("alpaca", CELL), ("conversations", CELL), ("report", HTML)],
)
def test_html_in_data_does_not_run_on_an_assets_page(ui: Ui, page: Page, asset: str, shown: str) -> None:
    page.goto(f"{ui.url}/assets/{asset}", wait_until="domcontentloaded")
    page.get_by_text(shown).first.wait_for()
    assert harmless(page)
    for number in range(page.get_by_text("Show Markdown").count()):
        page.get_by_text("Show Markdown").nth(number).click()
        page.get_by_role("dialog").first.wait_for()
        assert harmless(page)
        page.keyboard.press("Escape")
        page.get_by_role("dialog").first.wait_for(state="detached")


def test_html_in_data_does_not_run_on_a_runs_page(ui: Ui, page: Page) -> None:
    page.goto(f"{ui.url}/runs/{ui.runs()[-1]['runId']}", wait_until="domcontentloaded")
    page.get_by_text("conversations").first.wait_for()
    assert harmless(page)


def test_html_that_runs_is_detected(page: Page) -> None:
    """Tests `harmless` itself with HTML that a page interprets."""
    page.set_content(HTML)
    assert not harmless(page)
