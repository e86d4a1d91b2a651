"""Shared by all commands of `ft`: the project, the two consoles, the options, the exit codes.

Every `ft` imports this module, also for its help and for completion, so it imports nothing heavy.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ft_pipeline.project import Project
    from ft_pipeline.store.artifacts import ArtifactStore
    from ft_pipeline.store.spec import ArtifactReference

WIDTH = 240
"""Number of columns when the output is a file or a pipe. It is wide enough for every table."""
stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)

ProjectOption = Annotated[
    Path | None, typer.Option("--project", help="Project folder (default: FT_PROJECT, else the current folder).")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, everything else on stderr.")
]


def checked_reason(reason: str) -> str:
    """Return the value of --reason. UserError if no record can have it: then nothing has been done yet."""
    from ft_pipeline.errors import UserError

    try:
        reason.encode()
    except UnicodeEncodeError:
        raise UserError("--reason is not UTF-8. Type it in a terminal that uses UTF-8.") from None
    return reason


ReasonOption = Annotated[str, typer.Option("--reason", callback=checked_reason, help="Reason, kept in the record.")]

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: the command was run and something failed, the command or its input was refused, or Ctrl-C ended it."""


def experiment_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the experiments of the project that begin with what was typed, for the completion of the shell."""
    folder = Path(context.params.get("project") or os.environ.get("FT_PROJECT") or ".")
    return sorted(path.stem for path in (folder / "experiments").glob("*.yaml") if path.stem.startswith(incomplete))


def open_project(folder: Path | None, *, despite_secrets: bool = False) -> "Project":
    """Find the project, and set the environment so that Dagster's processes use the same one.

    Raises UserError if its settings contain a secret. despite_secrets: it only warns, for what an operator must be able
    to do at any time.
    """
    from ft_pipeline.cli.display_text import plain, say
    from ft_pipeline.errors import UserError
    from ft_pipeline.project import Project

    project = Project.find(folder)
    try:
        project.refuse_secrets()
    except UserError as error:
        if not despite_secrets:
            raise
        say(stderr, f"[yellow]ft:[/] {plain(str(error))}")
        project = Project(project.root, despite_secrets=True)
    os.environ["FT_PROJECT"] = str(project.root)
    os.environ["DAGSTER_HOME"] = str(project.dagster_home)
    project.dagster_home.mkdir(parents=True, exist_ok=True)
    return project


def show_error(message: str) -> None:
    """Say what went wrong."""
    from ft_pipeline.cli.display_text import plain, say

    say(stderr, f"[red]ft:[/red] {plain(message)}")


def warn_of_changed_evidence(store: "ArtifactStore", evidence: "Iterable[ArtifactReference]") -> None:
    """Say in one line if what is shown rests on something that is not as it was signed."""
    from ft_pipeline.cli.display_text import plain, say
    from ft_pipeline.release.intact import fault_in_evidence
    from ft_pipeline.store.at_rest import not_as_signed

    if fault := fault_in_evidence(store, evidence):
        say(stderr, f"[yellow]ft:[/] {plain(not_as_signed('This', fault))}")


def home_path(path: Path) -> str:
    """Return a path as a shell shows it: `~` is the user's home."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def project_option(folder: Path | None) -> str:
    """Return how a command that is shown to the user names the same project."""
    return "" if folder is None else f" --project {shlex.quote(str(folder))}"
