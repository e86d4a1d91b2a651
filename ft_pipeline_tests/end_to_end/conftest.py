import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from ft_pipeline_tests.end_to_end.project import Finished, first_run
from ft_pipeline_tests.end_to_end.ui import VIEW, browsing
from ft_pipeline_tests.fixtures.packing import FINISHED, unpack_signed
from ft_pipeline_tests.store.old_store import has_installed_versions


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A small project after its first `ft run`: the packed one, or made now if this machine has other libraries."""
    folder = tmp_path_factory.mktemp("finished")
    root = unpack_signed(FINISHED, folder)
    if has_installed_versions(root):
        return Finished(root)
    shutil.rmtree(root)
    return first_run(folder)


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
