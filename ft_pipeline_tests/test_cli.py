"""Options of `ft` itself, the help of its commands, what they import, and the completion of the shell."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_pipeline import scaffold
from ft_pipeline.cli import app
from ft_pipeline.cli.app import COMMANDS, HIDDEN, load_command, summary_of
from ft_pipeline.errors import UserError
from ft_pipeline_tests.forked_process import ForkedProcess

HEAVY = (
    "dagster",
    "pydantic",
    "numpy",
    "scipy",
    "pyarrow",
    "duckdb",
    "pandas",
    "yaml",
    "torch",
    "sqlalchemy",
    "psutil",
)
NOT_FOR_STATUS = ("torch", "transformers", "numpy", "scipy", "pandas", "ft_pipeline.definitions", "ft_pipeline.tables")
"""What `ft status` does not need. Importing pyarrow and duckdb is left to Dagster."""
FT = "from ft_pipeline.cli import main; main()"


def run_ft(arguments: list[str], env: dict[str, str] | None = None, code: str = FT) -> str:
    """The output of `ft` in a new process."""
    script = f"import sys; sys.argv[:] = ['ft', *{arguments!r}]; {code}"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def forked_ft(arguments: list[str], **env: str) -> str:
    """The output of `ft` in a fork of the test, which imports `ft_pipeline` anew."""
    output, errors = ForkedProcess(f"import sys; sys.argv[0] = 'ft'; {FT}", *arguments, **env).communicate()
    assert "Traceback" not in errors, errors
    return output


def imported(arguments: list[str], names: tuple[str, ...], env: dict[str, str] | None = None) -> list[str]:
    """Those of `names` that a command imports."""
    code = (
        "import atexit, json; from ft_pipeline.cli import main\n"
        f"atexit.register(lambda: print(json.dumps([name for name in {names!r} if name in sys.modules])))\n"
        "main()"
    )
    return json.loads(run_ft(arguments, env, code).splitlines()[-1])


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.strip()) == (0, version("ft-pipeline"))


def test_the_old_name_of_erase_works_and_is_hidden() -> None:
    assert CliRunner().invoke(app, ["forget", "--help"]).exit_code == 0
    commands = CliRunner().invoke(app, ["--help"]).stdout
    assert "erase" in commands and "forget" not in commands


def test_the_help_and_completion_import_nothing_heavy() -> None:
    """That is what makes them fast. Typer itself imports a part of pydantic for completion."""
    assert imported(["--help"], HEAVY) == []
    completing = {"_FT_COMPLETE": "complete_bash", "COMP_WORDS": "ft ", "COMP_CWORD": "1"}
    assert set(imported([], HEAVY, completing)) <= {"pydantic"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in HIDDEN])
def test_the_summary_of_a_command_is_the_first_sentence_of_its_help(name: str) -> None:
    """It is read from the file, so that nothing is imported for it."""
    text, summary = " ".join((load_command(name).help or "").split()), summary_of(COMMANDS[name])
    assert summary.endswith(".") and ". " not in summary
    assert text == summary or text.startswith(f"{summary} ")


def test_the_help_of_a_group_is_shown_in_a_process_of_its_own() -> None:
    """Whichever way the group is loaded first. The contract of the commands asks within one process."""
    assert forked_ft(["store", "-h"]) == forked_ft(["store", "--help"]) != ""


def test_run_with_a_name_says_how_to_run_it() -> None:
    refused = CliRunner().invoke(app, ["run", "qlora"])
    assert str(refused.exception) == "`ft run` takes no name, but got 'qlora'. Write: ft run -e qlora"


@pytest.mark.parametrize("command", [["run", "--plan"], ["run"], ["experiments"]])
def test_an_invalid_project_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    root = scaffold.create(tmp_path / "shop", example=False, small_example="classification")
    with (root / "project.yaml").open("a", encoding="utf-8") as file:
        file.write("nonsense: 3\n")
    monkeypatch.setenv("FT_PROJECT", str(root))
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, UserError) and "unknown key `nonsense`" in str(refused.exception)


@pytest.mark.slow
@pytest.mark.long
def test_dg_checks_the_definitions_in_a_project_folder(tmp_path: Path) -> None:
    root = scaffold.create(tmp_path / "shop", example=False, small_example="classification")
    env = {**os.environ, "FT_PROJECT": str(root), "DAGSTER_HOME": str(root / "dagster_home"), "DO_NOT_TRACK": "1"}
    command = [Path(sys.executable).parent / "dg", "check", "defs"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "All definitions loaded successfully." in done.stdout, done.stdout + done.stderr


def test_an_unknown_command_is_refused_with_a_suggestion() -> None:
    result = CliRunner().invoke(app, ["stauts"])
    assert result.exit_code == 2 and "'status'" in result.output


@pytest.mark.parametrize(
    ("shell", "variables"),
    [
        ("bash", {"COMP_WORDS": "ft {}", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "ft {}"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "ft {}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_the_shell_completes_experiments(tmp_path: Path, shell: str, variables: dict[str, str]) -> None:
    (tmp_path / "experiments").mkdir()
    for name in ("qlora", "qlora_long", "full"):
        (tmp_path / "experiments" / f"{name}.yaml").touch()

    def complete(words: str) -> str:
        env = {key: value.format(words) for key, value in variables.items()}
        return forked_ft([], **env, _FT_COMPLETE=f"complete_{shell}", FT_PROJECT=str(tmp_path))

    shown = complete("logs q")
    assert "qlora" in shown and "qlora_long" in shown and "full" not in shown
    asked = forked_ft(["--show-completion", shell], _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shell in asked


@pytest.mark.parametrize(
    "command",
    [
        ["promote", "lora"],
        ["rollback"],
        ["erase", "data/raw/alpaca/support_01.jsonl", "1"],
        ["inbox", "accept", "1"],
        ["inbox", "reject", "1"],
        ["keys", "new"],
        ["keys", "accept"],
    ],
    ids=" ".join,
)
def test_a_reason_that_no_record_can_have_is_refused_first(command: list[str], tmp_path: Path) -> None:
    """A terminal with another encoding than UTF-8 sends such a text. It stands for bytes that are no characters."""
    scaffold.create(tmp_path / "shop", example=True)
    result = CliRunner().invoke(app, [*command, "--reason", "caf\udce9", "--project", str(tmp_path / "shop")])
    assert isinstance(result.exception, UserError), result.exception
    assert "--reason is not UTF-8" in str(result.exception)
