"""Options of `ft` itself, and the old names of renamed commands."""

from importlib.metadata import version

from typer.testing import CliRunner

from ft_pipeline.cli import app


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.strip()) == (0, version("ft-pipeline"))


def test_the_old_name_of_erase_works_and_is_hidden() -> None:
    assert CliRunner().invoke(app, ["forget", "--help"]).exit_code == 0
    commands = CliRunner().invoke(app, ["--help"]).stdout
    assert "erase" in commands and "forget" not in commands
