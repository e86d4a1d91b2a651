from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from ft_pipeline_tests.end_to_end.project import Finished, ft, small_project
from ft_pipeline_tests.end_to_end.ui import VIEW, browsing


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A small project after its first `ft run`."""
    root = small_project(tmp_path_factory.mktemp("lifecycle") / "shop")
    return Finished(root, ft(root, "run", "--experiment", "qlora"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport=VIEW)
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()
