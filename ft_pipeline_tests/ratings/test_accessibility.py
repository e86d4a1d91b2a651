"""Every page of `ft rate` by the rules of screen readers, on a screen, on a phone and in dark mode."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from ft_pipeline_tests.end_to_end.accessibility import WAYS, is_wider_than_the_screen, reading, violations
from ft_pipeline_tests.end_to_end.ui import browsing, chromium
from ft_pipeline_tests.ratings.rated import RatedProject
from ft_pipeline_tests.ratings.visiting import visiting

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium"),
]


def test_a_screen_reader_can_read_every_page(project: RatedProject) -> None:
    match = project.match()
    with browsing() as browser:
        for number, way in enumerate(WAYS):
            with (
                visiting(match, rater=f"r{number}", number=1) as visitor,
                reading(browser, visitor.url, way) as page,
            ):
                for name in pages_of_a_rater(page):
                    assert (name, way, violations(page)) == (name, way, [])
                    assert not is_wider_than_the_screen(page), (name, way)


def pages_of_a_rater(page: Page) -> Iterator[str]:
    """Go through all pages, and yield the name of each."""
    yield "pair"
    for fold in page.locator("summary").all():
        fold.click()
    yield "pair with its folds open"
    page.evaluate("document.querySelector('[name=item]').value = 'unknown'")
    page.get_by_role("button").first.click()
    page.get_by_text("Not recorded").first.wait_for()
    yield "refused"
    page.get_by_role("link").click()
    page.get_by_role("button").first.click()
    page.get_by_text("All 1 pairs are rated").wait_for()
    yield "done"
    page.get_by_role("button").click()
    page.get_by_text("You can close this page").wait_for()
    yield "result"
