"""The page of `ft relabel` in a real browser: by keyboard without scripts, and by the rules of screen readers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from ft_pipeline.tables.relabels import read_relabels
from ft_pipeline_tests.end_to_end.accessibility import WAYS, is_wider_than_the_screen, reading, violations
from ft_pipeline_tests.end_to_end.ui import browsing, chromium
from ft_pipeline_tests.ratings.test_browser import press_access_key
from ft_pipeline_tests.worth.test_relabel import ROWS, visiting

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium"),
]


def test_a_person_labels_by_keyboard_without_scripts(tmp_path: Path) -> None:
    with browsing() as browser, visiting(tmp_path) as visitor:
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(visitor.url)
        for number, row in enumerate(ROWS):
            key = "n" if number == 3 else "jk"[row.choices.index("damaged")]
            press_access_key(page, key)
            page.wait_for_selector(f"progress[value='{number + 1}']")
        press_access_key(page, "r")
        page.get_by_text("11 get the likely one").wait_for()
        context.close()
    decided = read_relabels(tmp_path)
    assert [decided[row.id].label for row in ROWS] == [None if row.id == "row-3" else "damaged" for row in ROWS]


def test_a_screen_reader_can_read_every_page(tmp_path: Path) -> None:
    with browsing() as browser:
        for way in WAYS:
            with visiting(tmp_path / str(way), ROWS[:1]) as visitor, reading(browser, visitor.url, way) as page:
                for name in pages(page):
                    assert (name, way, violations(page)) == (name, way, [])
                    assert not is_wider_than_the_screen(page), (name, way)


def pages(page: Page) -> Iterator[str]:
    """Go through all pages, and yield the name of each."""
    yield "row"
    page.locator("summary").click()
    yield "row with its fold open"
    page.get_by_role("button").first.click()
    page.get_by_text("All 1 rows are labeled").wait_for()
    yield "done"
    page.get_by_role("button").click()
    page.get_by_text("You can close this page").wait_for()
    yield "result"
