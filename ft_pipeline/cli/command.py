"""A command of `ft`, from a function: its options from the signature, its help from the docstring.

    @command
    def gc(project: Project, dry_run: Annotated[bool, Option("--dry-run", help="…")] = False) -> Answer:
        '''Remove everything from the store that is not needed by what is kept.'''

The parameter `project` is --project. A returned Answer brings --json; `as_json` is for a command that prints by itself.
"""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from ft_pipeline.cli.common import JsonOption, ProjectOption, open_project, show_error, stdout

if TYPE_CHECKING:
    from ft_pipeline.project import Project

SHARED = {
    "project": Parameter("project", Parameter.KEYWORD_ONLY, annotation=ProjectOption, default=None),
    "as_json": Parameter("as_json", Parameter.KEYWORD_ONLY, annotation=JsonOption, default=False),
}
"""The options of many commands, by the parameter that asks for them."""


@dataclass(frozen=True)
class Answer:
    """What a command found, for programs and for people."""

    document: Any
    """What --json prints."""
    show: Callable[[Console, Any], None]
    """Prints the document for people: `show(console, document)`."""
    code: int = 0
    """The exit code of `ft`."""
    error: str | None = None
    """What went wrong nevertheless, said on stderr after the answer. The code must then not be 0."""


@dataclass(frozen=True)
class UnopenedProject:
    """The project of a command that opens it itself: after its own checks, for some options, or despite secrets."""

    folder: Path | None
    """The value of --project."""

    def open(self, *, despite_secrets: bool = False) -> "Project":
        """Find the project as `open_project` does. UserError if there is none, or if its settings contain a secret."""
        return open_project(self.folder, despite_secrets=despite_secrets)


def command(function: Callable[..., Answer | None]) -> Callable[..., None]:
    """Return a function as Typer reads it, the shared options after its own. A Project is opened before each call."""
    declared = signature(function, eval_str=True)
    asked, answers = declared.parameters, declared.return_annotation in (Answer, Answer | None)
    own = [parameter for name, parameter in asked.items() if name not in SHARED]
    shared = [SHARED[name] for name in SHARED if name in asked or (name == "as_json" and answers)]

    @functools.wraps(function)
    def run(**options: Any) -> None:
        as_json = answers and options.pop("as_json")
        if "project" in asked:
            unopened = UnopenedProject(options["project"])
            options["project"] = unopened if asked["project"].annotation is UnopenedProject else unopened.open()
        if (answer := function(**options)) is not None:
            print_answer(answer, as_json)

    run.__signature__ = Signature([*own, *shared])  # type: ignore[attr-defined]  # Typer reads it
    return run


def print_answer(answer: Answer, as_json: bool) -> None:
    """Print an answer as one JSON document or for people, then its error. Raises typer.Exit if its code is not 0."""
    if as_json:
        sys.stdout.write(json.dumps(answer.document, indent=2, ensure_ascii=False) + "\n")
    else:
        answer.show(stdout, answer.document)
    if answer.error is not None:
        show_error(answer.error)
    if answer.code:
        raise typer.Exit(answer.code)
