"""A command from a function: its options, the project that it gets, and how its answer is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from ft_pipeline import scaffold
from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project


def show(console: Console, document: object) -> None:
    console.print(f"shown: {document}")


def run(function: Callable[..., Answer | None], *arguments: str) -> Result:
    """The command of a function, run."""
    app = typer.Typer()
    app.command()(command(function))
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and an environment from which what a command sets is removed."""
    for name in ("FT_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return scaffold.create(tmp_path / "shop", example=False, small_example="classification")


def named(
    project: Project, greeting: Annotated[str, typer.Option("--greeting", help="How to begin.")] = "hello"
) -> Answer:
    """Greet the project. It is short."""
    return Answer({greeting: project.root.name}, show)


def test_a_project_is_opened_and_the_answer_is_shown(shop: Path) -> None:
    done = run(named, "--project", str(shop), "--greeting", "hi")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "shown: {'hi': 'shop'}\n", "")


def test_with_json_only_the_document_is_printed(shop: Path) -> None:
    assert json.loads(run(named, "--project", str(shop), "--json").stdout) == {"hello": "shop"}


def test_outside_a_project_the_function_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FT_PROJECT", raising=False)
    refused = run(named)
    assert isinstance(refused.exception, UserError) and "has no project.yaml" in str(refused.exception)


def test_its_help_is_the_docstring_and_the_shared_options_come_last() -> None:
    text = run(named, "--help").stdout
    assert "Greet the project. It is short." in text
    places = [text.index(part) for part in ("How to begin.", "--greeting", "--project", "--json")]
    assert places[1] < places[2] < places[3]


def test_a_function_without_a_project_or_an_answer_has_neither_option() -> None:
    said = []

    def plain(name: str) -> None:
        said.append(name)

    assert run(plain, "x").exit_code == 0 and said == ["x"]
    assert run(plain, "x", "--json").exit_code == run(plain, "x", "--project", ".").exit_code == 2


def test_a_project_that_is_not_opened_can_be_opened_later(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opening(project: UnopenedProject, late: bool = False) -> Answer:
        folder = project.folder and project.folder.name
        return Answer([folder, project.open().root.name if late else None], show)

    assert json.loads(run(opening, "--json").stdout) == [None, None]
    assert json.loads(run(opening, "--json", "--late", "--project", str(shop)).stdout) == ["shop", "shop"]


def test_only_a_project_opened_despite_secrets_is_one_with_a_secret(shop: Path) -> None:
    with (shop / "project.yaml").open("a", encoding="utf-8") as file:
        file.write("token: ghp_abcdefghijklmnopqrstuvwxyz0123456789\n")

    def opening(project: UnopenedProject) -> Answer:
        return Answer(project.open(despite_secrets=True).root.name, show)

    assert isinstance(run(named, "--project", str(shop)).exception, UserError)
    done = run(opening, "--project", str(shop))
    assert done.stdout == "shown: shop\n" and "a token of GitHub" in done.stderr


def test_an_error_is_said_after_the_answer_which_is_printed_nevertheless() -> None:
    def failing() -> Answer:
        return Answer("kept", show, code=1, error="the rest of [it] failed")

    done, as_json = run(failing), run(failing, "--json")
    assert (done.exit_code, done.output) == (1, "shown: kept\nft: the rest of [it] failed\n")
    assert (as_json.exit_code, as_json.stdout, as_json.stderr) == (1, '"kept"\n', done.stderr)


def test_a_command_may_have_no_answer() -> None:
    def silent(wanted: bool = False) -> Answer | None:
        return Answer(1, show) if wanted else None

    assert (run(silent, "--json").exit_code, run(silent, "--json").stdout) == (0, "")
    assert run(silent, "--json", "--wanted").stdout == "1\n"


def test_a_function_that_prints_by_itself_asks_for_json() -> None:
    def printing(as_json: bool) -> None:
        print("json" if as_json else "text")

    assert (run(printing).stdout, run(printing, "--json").stdout) == ("text\n", "json\n")
    assert "Print one JSON document on stdout" in run(printing, "--help").stdout
