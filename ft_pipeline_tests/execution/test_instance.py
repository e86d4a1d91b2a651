"""Opening Dagster's instance: one process at a time creates its tables, and errors are one line."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_pipeline import scaffold
from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.execution import local_runs
from ft_pipeline.execution.instance import connect_instance
from ft_pipeline.project import Project


def test_ft_ui_starts_dagster_once_the_tables_are_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster itself takes no lock: a first `ft run` at the same moment would create them too."""
    root = scaffold.create(tmp_path / "shop", example=False)
    for name in ("FT_PROJECT", "DAGSTER_HOME", "PYTHONWARNINGS"):
        monkeypatch.setenv(name, "")  # restored after the test
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    databases: list[str] = []
    commands: list[list[str]] = []
    home = root / "dagster_home"

    def record_command(program: str, arguments: list[str]) -> None:
        databases.extend(path.name for path in home.rglob("*.db"))
        commands.append(arguments)

    monkeypatch.setattr(os, "execv", record_command)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))  # as in a notebook: Dagster's programs are in another folder
    arguments = ["ui", "--project", str(root), "--port", str(free_port())]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and set(databases) >= {"runs.db", "index.db", "schedules.db"}
    assert (home / "opening").is_file(), "under the lock"
    program = [str(python), "-P", "-m", "ft_pipeline.execution.ui_server"]
    assert commands[0][:5] == [*program, "--daemon"]
    with pytest.raises(UserError, match=r"is already running in process \d+ \(ft ui\)\. .* --read-only"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    names = ["--allow-host", "a.example", "--allow-host", "b.example"]
    done = CliRunner().invoke(app, [*arguments, "--read-only", *names], catch_exceptions=False)
    assert commands[1][:5] == [*program, "--read-only"] and commands[1][-4:] == names


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_project_without_a_workspace_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = scaffold.create(tmp_path / "shop", example=False)
    for name in ("FT_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # restored after the test
    (root / "workspace.yaml").unlink()
    with pytest.raises(UserError, match=r"workspace\.yaml is missing\. Copy it from another project"):
        CliRunner().invoke(app, ["ui", "--project", str(root)], catch_exceptions=False)


def test_a_port_in_use_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = scaffold.create(tmp_path / "shop", example=False)
    for name in ("FT_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # restored after the test
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} of 127.0.0.1 is in use"):
            CliRunner().invoke(app, ["ui", "--project", str(root), "--port", str(port)], catch_exceptions=False)


def test_settings_with_aliases_without_end_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = "\n".join(["a0: &a0 [x]", *lines, "storage: *a11"])
    (tmp_path / "dagster.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be opened: its aliases repeat too many values"):
        connect_instance()
    (tmp_path / "workspace.yaml").write_text("[" * 5000 + "]" * 5000, encoding="utf-8")
    assert local_runs._location_name(Project(tmp_path)) == local_runs.CODE_LOCATION


def test_a_database_without_an_address_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dagster.yaml").write_text("storage: {postgres: {postgres_url: {env: FT_POSTGRES_URL}}}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("FT_POSTGRES_URL", raising=False)
    with pytest.raises(UserError, match=r"FT_POSTGRES_URL is not set, but .*dagster.yaml"):
        connect_instance()


@pytest.mark.long
def test_an_unreachable_database_is_reported_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text("storage: {postgres: {postgres_url: {env: FT_POSTGRES_URL}}}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("FT_POSTGRES_URL", "postgresql://ft:heliotrope@127.0.0.1:9/postgres")
    with pytest.raises(UserError, match=r"cannot be opened: .*127\.0\.0\.1.*refused.*ft-pipeline\[postgres\]") as error:
        connect_instance()
    assert "heliotrope" not in str(error.value)


def test_a_broken_dagster_yaml_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dagster.yaml").write_text("storage: {postgres: \n  - [")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be opened: .*dagster\.yaml"):
        connect_instance()
