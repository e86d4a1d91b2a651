"""The report as people read it: on a screen, on a phone, in dark mode, on paper, and by a screen reader."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from ft_pipeline_tests.end_to_end.accessibility import SCREEN, WAYS, is_wider_than_the_screen, reading, violations
from ft_pipeline_tests.end_to_end.ui import browsing, chromium
from ft_pipeline_tests.release.full_report import full_report
from ft_pipeline_tests.release.trained import ITEMS, Trained

PAPER = {"width": 688, "height": 1017}
"""A4 without the margins, in CSS pixels."""
LEAD = r"[+-][\d.]+ \([+-][\d.]+ to [+-][\d.]+\) (better|worse|may be chance|cannot be used)"
HIDDEN = """elements => elements.filter(element => !element.checkVisibility()).map(element => element.outerHTML)"""
CUT = """elements => elements.filter(element => element.scrollWidth > element.clientWidth + 1).map(
    element => `${element.getAttribute('aria-label')}: ${element.scrollWidth}`)"""
SECTIONS = {
    "Why",
    "What a release requires",
    "Every model and every prompt",
    "Paired differences",
    "What tuned models must keep of their base model",
    "What is wrong most often",
    "Parts of the test conversations",
    "What each training was to improve",
    "Variation between seeds",
    "Effect of more training rows",
    "Costs",
    "Effect of 4-bit quantization",
    "What tuning changed",
    "What got worse, and which row may have taught it",
    "Answers side by side",
    "Prompts",
    "Provenance",
}
"""Every section below the first screen."""
pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def report(probed: Trained) -> str:
    return full_report(probed).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


@pytest.mark.parametrize("way", WAYS)
def test_a_screen_reader_can_read_every_part(browser: Browser, report: str, way: str) -> None:
    with reading(browser, report, way) as page:
        assert violations(page) == []


@pytest.mark.parametrize("way", ["phone", "dark phone"])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, report: str, way: str) -> None:
    with reading(browser, report, way) as page:
        assert not is_wider_than_the_screen(page)


def test_the_first_screen_has_the_verdict_the_leads_and_an_answer(browser: Browser, report: str) -> None:
    with reading(browser, report, "screen") as page:
        for part in ("#decision strong", "#lead", ".leads tbody tr", "#before-after-1", ".first .answers"):
            box = page.locator(part).first.bounding_box()
            assert box is not None and box["y"] + box["height"] <= SCREEN["height"], part


def test_the_leads_are_text_beside_their_picture(browser: Browser, report: str) -> None:
    with reading(browser, report, "phone") as page:
        lines = page.locator(".leads tbody tr").all()
        assert lines
        for line in lines:
            assert re.search(LEAD, line.inner_text())
            track, dot = (line.locator(part).bounding_box() for part in (".track", ".dot"))
            assert track and dot and track["x"] <= dot["x"] and dot["x"] + dot["width"] <= track["x"] + track["width"]


def test_dark_mode_is_dark(browser: Browser, report: str) -> None:
    with reading(browser, report, "dark") as page:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", color)[:3])) < 60
        filters = page.locator("img").evaluate_all("all => all.map(image => getComputedStyle(image).filter)")
        assert filters and all("invert(1)" in entry for entry in filters)


def test_paper_has_every_answer_and_cuts_no_table(browser: Browser, report: str) -> None:
    with reading(browser, report, "screen") as page:
        page.check("#show-regressed")
        page.set_viewport_size(PAPER)
        page.emulate_media(media="print")
        assert page.locator(".item").count() == ITEMS
        assert page.locator(".item, details p, details dl, section, section h2, main > h2").evaluate_all(HIDDEN) == []
        assert page.locator(".wide").evaluate_all(CUT) == []
        assert not is_wider_than_the_screen(page)
        assert page.locator("fieldset, nav").evaluate_all(HIDDEN) != []


def test_the_contents_lead_to_every_section(browser: Browser, report: str) -> None:
    with reading(browser, report, "phone") as page:
        links = page.locator("nav a").evaluate_all("links => links.map(link => [link.hash, link.innerText])")
        assert len(links) == len(SECTIONS) and {name for _, name in links} == SECTIONS
        assert all(page.locator(f"h2{target}").inner_text() == name for target, name in links)
