import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline_tests.audit.shop import Shop

Command = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the project that `ft` opens."""
    root = tmp_path / "shop"
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    return root


@pytest.fixture
def shop(opened: Path) -> Shop:
    """A project folder with raw files, and nothing materialized."""
    shop = Shop(opened)
    shop.write_project()
    return shop


@pytest.fixture(scope="session")
def released_once(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("released") / "shop")
    shop.write_project()
    shop.release(shop.materialize())
    return shop


@pytest.fixture
def released(released_once: Shop, opened: Path) -> Shop:
    """A project with everything materialized and a champion; a test may damage it."""
    shutil.copytree(released_once.root, opened)
    return Shop(opened)


@pytest.fixture
def ft() -> Command:
    """`ft …` in this process: (exit code, output)."""

    def command(*arguments: str) -> tuple[int, str]:
        assert "FT_PROJECT" in os.environ
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    return command


@pytest.fixture
def ft_json(ft: Command) -> Command:
    """The document of `ft … --json`, whatever the exit code."""
    return lambda *arguments: json.loads(ft(*arguments, "--json")[1])
