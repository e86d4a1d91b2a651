"""The docs as a site: built without a warning, nothing from other hosts, and a search that works offline."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ft_pipeline_tests.end_to_end.ui import chromium

ROOT = Path(__file__).parent.parent.parent
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(https?:|//)|<link\b[^>]*\bhref=\"?(https?:|//)")
"""What a browser loads from another host. Links that a reader may follow are not loaded."""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},  # as `make docs`: Material announces its end of life
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_links_to_files_outside_the_docs_lead_to_pages_of_the_site(site: Path) -> None:
    assert 'href="repository/experiments/qlora.yaml.html"' in (site / "objectives.html").read_text(encoding="utf-8")
    assert "technique" in (site / "repository" / "experiments" / "qlora.yaml.html").read_text(encoding="utf-8")
    examples = site / "repository" / "examples"
    assert 'href="classification/index.html"' in (examples / "index.html").read_text(encoding="utf-8")
    assert 'href="../../../checks.html"' in (examples / "classification" / "index.html").read_text(encoding="utf-8")


def test_a_bar_in_the_code_of_a_table_has_no_backslash(site: Path) -> None:
    assert "<code>&lt;|tool_call&gt;call:NAME{…}" in (site / "serving.html").read_text(encoding="utf-8")


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not LOADED.search(page.read_text(encoding="utf-8")), page


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")
@pytest.mark.parametrize("place", ["web server", "folder"])
def test_the_search_finds_a_word_without_a_network(page: Page, site: Path, address: str, place: str) -> None:
    start = f"{address}/index.html" if place == "web server" else (site / "index.html").as_uri()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(start)
    page.locator("input.md-search__input").click()
    page.keyboard.type("quarantine")
    result = page.locator(".md-search-result__link", has=page.locator("mark", has_text="quarantine")).first
    expect(result).to_be_visible(timeout=60_000)
    result.click()
    expect(page.locator("article")).to_contain_text("quarantine", timeout=60_000)
    assert [url for url in asked if not url.startswith((address, "file:", "blob:", "data:"))] == []
