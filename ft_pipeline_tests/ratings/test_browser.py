"""Two test raters rate sixty pairs each on the page: a real browser without scripts, by keyboard, at phone width."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from ft_pipeline.audit.verify import verify
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.ratings.rating_ledger import read_ratings
from ft_pipeline_tests.end_to_end.ui import browsing, chromium
from ft_pipeline_tests.ratings.rated import PROMPT, TUNED, RatedProject, curt_answer, kind_answer

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium"),
]
PAIRS = 60
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(java_script_enabled=False, viewport=PHONE, color_scheme="dark")
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    yield opened
    context.close()


def start(rater: str) -> tuple["subprocess.Popen[str]", str]:
    """`ft rate` as a rater, and its address."""
    command = [str(Path(sys.executable).parent / "ft"), "rate", TUNED, PROMPT, "-n", str(PAIRS), "--rater", rater]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert process.stderr is not None
    return process, process.stderr.readline().split()[2]


def save_screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("FT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def press_access_key(page: Page, key: str) -> None:
    """Alt and a letter, as a keyboard sends it. Playwright's own `press` sends no character with Alt, and Chromium acts
    on the character."""
    session = page.context.new_cdp_session(page)
    event = {"modifiers": 1, "key": key, "code": f"Key{key.upper()}", "windowsVirtualKeyCode": ord(key.upper())}
    session.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **event})
    session.send("Input.dispatchKeyEvent", {"type": "char", "text": key, "unmodifiedText": key, **event})
    session.detach()


def rate_one(page: Page, number: int, rater: str) -> str:
    """Choose by the access key; returns the text of the page."""
    text = page.inner_text("body")
    answers = page.locator(".answers section .text").all_inner_texts()
    item = int(str(page.locator("input[name=item]").get_attribute("value"))[:3])
    assert sorted(answers) == sorted([kind_answer(item), curt_answer(item)])
    better = "jk"[answers.index(kind_answer(item))]
    key = "n" if rater == "r2" and number % 6 == 0 else "g" if item % 5 == 0 else better
    before = page.locator("progress").get_attribute("value")
    press_access_key(page, key)
    page.wait_for_selector(f"progress:not([value='{before}'])")
    return text


def test_two_raters_rate_sixty_pairs_each(project: RatedProject, page: Page) -> None:
    for rater in ("r1", "r2"):
        process, url = start(rater)
        page.goto(url)
        save_screenshot(page, f"rate_{rater}")
        for box in (part.bounding_box() for part in page.locator("section, button, textarea, progress").all()):
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
        for number in range(PAIRS):
            assert f"{number} of {PAIRS} rated" in page.inner_text("header")
            text = rate_one(page, number, rater)
            assert not re.search(r"lora|merged|few_shot", text)
        assert f"All {PAIRS} pairs are rated" in page.inner_text("main")
        press_access_key(page, "r")
        page.get_by_text(f"{TUNED} is better in").wait_for()
        assert ("Agreement of the raters" in page.inner_text("main")) == (rater == "r2")
        save_screenshot(page, f"result_{rater}")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert f"{TUNED} is better in" in out
        assert "Next:" in out
    counts = Counter(rating.rater for rating in read_ratings(project.store.root))
    assert counts == {"r1": PAIRS, "r2": PAIRS}
    assert verify(ArtifactIndex(project.store.root)).problems == ()
