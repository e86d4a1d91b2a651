"""A page by the rules of screen readers (axe-core), at the widths and in the modes in which people read it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

SCREEN = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "screen": {"viewport": SCREEN, "color_scheme": "light"},
    "dark": {"viewport": SCREEN, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light"},
    "dark phone": {"viewport": PHONE, "color_scheme": "dark"},
}
"""By name, how a reader opens a page."""


@contextmanager
def reading(browser: Browser, url: str, way: str) -> Iterator[Page]:
    """A page as it is read in one of WAYS."""
    context = browser.new_context(**WAYS[way])
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(url)
    try:
        yield page
    finally:
        context.close()


def violations(page: Page) -> list[str]:
    """The rules of axe-core that a page violates, each with the elements."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {[node['html'][:120] for node in rule['nodes'][:3]]}" for rule in found]


def is_wider_than_the_screen(page: Page) -> bool:
    """Whether a reader has to scroll sideways to read the page."""
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
