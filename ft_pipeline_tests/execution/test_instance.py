"""Dagster's tables are made by one process at a time."""

import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_pipeline import scaffold
from ft_pipeline.cli.commands import app


def test_the_ui_hands_over_to_dagster_when_the_tables_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dagster dev` itself takes no lock: a first `ft run` at the same moment would make them, too."""
    root = scaffold.create(tmp_path / "shop", example=False)
    for name in ("FT_PROJECT", "DAGSTER_HOME", "PYTHONWARNINGS"):
        monkeypatch.setenv(name, "")  # put back at the end
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    made: list[str] = []
    home = root / "dagster_home"
    monkeypatch.setattr(os, "execv", lambda *_: made.extend(path.name for path in home.rglob("*.db")))
    done = CliRunner().invoke(app, ["ui", "--project", str(root)], catch_exceptions=False)
    assert done.exit_code == 0 and set(made) >= {"runs.db", "index.db", "schedules.db"}
    assert (home / "opening").is_file(), "under the lock"
