"""A project with every kind of artifact, and what the tests of copies do with it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.store.journal import sign_new_store
from ft_pipeline.store.journal_lines import FILE_NAME
from ft_pipeline.store.signing import PUBLIC_KEY_NAME
from ft_pipeline_tests.audit.conftest import ft, ft_json, opened  # noqa: F401
from ft_pipeline_tests.audit.shop import Shop
from ft_pipeline_tests.s3_server import connect_empty, s3_server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client, and the bucket `copies`, which is empty."""
    return connect_empty(endpoint, monkeypatch, "copies")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed project and the same one without signatures, each with everything materialized and a champion."""
    folder = tmp_path_factory.mktemp("finished")
    shop = Shop(folder / "signed")
    shop.write_project()
    sign_new_store(shop.store.root)
    shop.release(shop.materialize())
    shutil.copytree(shop.root, folder / "unsigned")
    for name in (FILE_NAME, PUBLIC_KEY_NAME):
        (folder / "unsigned" / "data" / "store" / name).unlink()
    return folder


class Projects:
    """Makes projects in one temporary folder."""

    def __init__(self, folder: Path, finished: Path) -> None:
        self.folder = folder
        self._finished = finished

    def finished(self, name: str = "here", *, signed: bool = True) -> Shop:
        """A copy of the finished project: as if it was moved, so that this machine remembers no line of its journal."""
        shutil.copytree(self._finished / ("signed" if signed else "unsigned"), self.folder / name)
        return Shop(self.folder / name)

    def empty(self, name: str = "there", *, signed: bool = True) -> Shop:
        """A new project, as `ft init` makes it."""
        shop = Shop(self.folder / name)
        shop.write_project()
        if signed:
            sign_new_store(shop.store.root)
        return shop


@pytest.fixture
def projects(tmp_path: Path, finished: Path) -> Projects:
    return Projects(tmp_path, finished)
