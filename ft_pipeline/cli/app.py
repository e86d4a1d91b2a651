"""The app `ft`. A command's module is imported only when that command runs, so that `ft --help` is fast."""

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ft_pipeline.cli.common import FAILED, INTERRUPTED, REFUSED, show_error, stderr, stdout
from ft_pipeline.cli.display_text import say
from ft_pipeline.errors import UserError
from ft_pipeline.features import commands

if TYPE_CHECKING:
    from typer._click import Command, Context

HELP = "Run the pipeline from a terminal, with the same assets and the same Dagster instance as the UI."

OWN = {
    "init": "commands:init",
    "doctor": "commands:doctor",
    "run": "commands:run",
    "plan": "plan:plan",
    "prompt": "prompt:prompt",
    "status": "runs:status",
    "logs": "runs:logs",
    "cancel": "runs:cancel",
    "ui": "commands:ui",
    "experiments": "commands:experiments",
    "compare": "commands:compare",
    "recommend": "commands:recommend",
    "promote": "release:promote",
    "approve": "release:approve",
    "rollback": "release:rollback",
    "champion": "release:champion",
    "exposures": "exposures:exposures",
    "export": "export:export",
    "push": "push:push",
    "report": "report:report",
    "gc": "gc:gc",
    "upgrade": "upgrade:upgrade",
    "memory": "memory:memory",
    "inspect": "inspect:inspect",
    "validate": "commands:validate",
    "sql": "commands:sql",
}
"""Name → `module:function` in this package. Of a group, `module:app`."""
COMMANDS = {name: f"{__package__}.{target}" for name, target in OWN.items()} | commands()
"""All commands, those of features last, in the order of the help."""
HIDDEN = ("forget",)
"""Names that the help does not list: that of `erase` before 0.2, to be removed in the release after it."""


def summary_of(target: str) -> str:
    """Return the first sentence of the docstring of a command, or of a group's callback. Its module is not imported."""
    module, _, attribute = target.partition(":")
    begin = rf"^(?:def {attribute}\(|@{attribute}\.callback\().*?^    "
    found = re.search(begin + r'"""(.*?\.)(?=\s|""")', _source(module), re.DOTALL | re.MULTILINE)
    assert found, f"{target} has no docstring"
    return " ".join(found[1].split())


@cache
def _source(module: str) -> str:
    found = find_spec(module)  # this imports the package of the module, and not the module
    assert found is not None and found.origin is not None, module
    return Path(found.origin).read_text(encoding="utf-8")


class LazyGroup(TyperGroup):
    """The commands of COMMANDS. The help and completion of names see their summaries only."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Loaded()  # type: ignore[assignment]  # nothing is added to it

    def list_commands(self, ctx: "Context") -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":
        """Return a stand-in for a command, with its summary."""
        target = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=summary_of(target), hidden=cmd_name in HIDDEN) if target else None

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        """Parse the arguments of `ft`. `ft help run` is `ft run --help`."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def resolve_command(self, ctx: "Context", args: list[str]) -> "tuple[str | None, Command | None, list[str]]":
        """Return the command that the first argument names, and the other arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest


HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class _Loaded(Mapping[str, "Command"]):
    """The commands, each imported when it is read."""

    def __getitem__(self, name: str) -> "Command":
        return load_command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@cache
def load_command(name: str) -> "Command":
    """Import the module of a command, and return the command."""
    module, _, attribute = COMMANDS[name].partition(":")
    target = getattr(import_module(module), attribute)
    if isinstance(target, typer.Typer):
        command: Command = typer.main.get_group(target)
        command.name = name
        command.context_settings.update(HELP_NAMES)
        return command
    single = typer.Typer(add_completion=False)
    settings = {**HELP_NAMES, "allow_extra_args": name == "run"}  # it says how to run what they name
    single.command(name, hidden=name in HIDDEN, context_settings=settings)(target)
    return typer.main.get_command(single)


app = typer.Typer(
    cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP, context_settings=HELP_NAMES
)


def _show_version(requested: bool) -> None:
    if requested:
        stdout.print(version("ft-pipeline"), highlight=False)
        raise typer.Exit


@app.callback(help=HELP)
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options of `ft` itself."""


def main() -> None:
    """The entry point. An error that the user can fix is shown in one or two lines, without a traceback."""
    try:
        app()
    except UserError as error:
        show_error(str(error))
        sys.exit(REFUSED)
    except OSError as error:
        from ft_pipeline.store.atomic_files import describe_write_error

        if (message := describe_write_error(error)) is None:
            raise
        show_error(message)
        sys.exit(FAILED)
    except SystemExit as ending:
        if ending.code == INTERRUPTED:  # Typer's own, after Ctrl-C
            say(stderr, "ft: stopped. Finished work is kept. Run the same command again to resume.")
        raise
