"""The app `ft`. A command's module is imported only when that command runs, so that `ft --help` is fast."""

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from ft_pipeline.cli.common import FAILED, INTERRUPTED, REFUSED, stderr, stdout
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError

if TYPE_CHECKING:
    from typer._click import Command, Context

HELP = "Run the pipeline from a terminal, with the same assets and the same Dagster instance as the UI."


class Entry(NamedTuple):
    """A command, before its module is imported."""

    target: str
    """`module:function` in this package, or `module:app` for a group of commands."""
    summary: str
    """How its help begins."""
    hidden: bool = False


COMMANDS = {
    "init": Entry("commands:init", "Create a project folder that is ready to run."),
    "doctor": Entry(
        "commands:doctor",
        "Check this machine: GPU, compute type and its measured speed, memory, packages, embedded model, Dagster "
        "instance, disk and port.",
    ),
    "run": Entry(
        "commands:run",
        "Materialize every asset that is missing, stale or failed, with live progress and a summary at the end.",
    ),
    "plan": Entry(
        "plan:plan",
        "Estimate the memory, time and money of an experiment on this machine and on common GPUs, and how far off it "
        "was.",
    ),
    "prompt": Entry(
        "prompt:prompt",
        "Search the best prompt for the base model on the validation rows, and show what it gains.",
    ),
    "sweep": Entry(
        "sweep:sweep",
        "Train variations of an experiment, stop those that fall behind, and write the best one as a new experiment.",
    ),
    "status": Entry("runs:status", "Show what runs, what waits and behind whom, what failed last"),
    "logs": Entry("runs:logs", "Print the log of a run."),
    "cancel": Entry("runs:cancel", "Cancel a run: one that is under way (it saves a checkpoint), one that waits"),
    "ui": Entry("commands:ui", "Start the Dagster UI and daemon on 127.0.0.1."),
    "experiments": Entry(
        "commands:experiments",
        "List the experiments with their objective, technique, base model, state and primary score.",
    ),
    "compare": Entry(
        "commands:compare", "Show the comparison: every model and prompt with its scores, intervals and cost."
    ),
    "recommend": Entry("commands:recommend", "Show the recommendation and the reasons for it."),
    "rate": Entry("rate:rate", "Compare the answers of two models, blind, on a page on 127.0.0.1 or in a spreadsheet."),
    "promote": Entry(
        "release:promote",
        "Release a model that beats the best baseline and the current champion by more than noise and passes every "
        "check.",
    ),
    "approve": Entry(
        "release:approve",
        "Release the model that another person, or a run of another user, asked for (`promotion.two_people`).",
    ),
    "rollback": Entry("release:rollback", "Release the previous champion again, exactly as it was."),
    "champion": Entry("release:champion", "Show the released model, when it was released and why."),
    "exposures": Entry(
        "exposures:exposures",
        "Show how often the test rows were looked at, and how clear the lead of the next model must be.",
    ),
    "export": Entry(
        "export:export",
        "Export a model to a folder as a PEFT adapter, a Hugging Face model or GGUF files, with tokenizer, chat "
        "template, generation config and model card.",
    ),
    "push": Entry(
        "push:push",
        "Send a model with its card, bill of materials and signature to a private repository of the Hugging Face Hub, "
        "or to a bucket.",
    ),
    "serve": Entry(
        "serve:serve",
        "Serve a model as an OpenAI-compatible endpoint on 127.0.0.1, with the prompt and greedy decoding of its "
        "scores.",
    ),
    "export-data": Entry(
        "exchange:export_data",
        "Write the accepted conversations to a file for another tool, with the origin of each row.",
    ),
    "report": Entry(
        "report:report",
        "Print the path of the report: one HTML file with the recommendation, the scores and every answer.",
    ),
    "gc": Entry(
        "gc:gc",
        "Remove everything from the store that is older than `retention.keep_days` and not needed by what is kept.",
    ),
    "store": Entry("copies:app", "Share the store through a bucket or another disk."),
    "backup": Entry(
        "backup:backup",
        "Back up the project: settings, experiments, raw files, store, and Dagster's run history, while runs go on.",
    ),
    "restore": Entry("backup:restore", "Write a project folder as it was backed up."),
    "upgrade": Entry(
        "upgrade:upgrade",
        "Show what the installed version would run again in this project's store, and what it would not.",
    ),
    "memory": Entry("memory:memory", "Estimate the memory that training needs, and suggest settings that fit."),
    "inspect": Entry(
        "inspect:inspect", "Show the rows of a table to look at first: highest held-out loss, oddest, longest."
    ),
    "anchor": Entry(
        "keys:anchor",
        "Copy the signed lines of the journal to a place outside the project, so that `ft audit --verify --anchor` "
        "finds what was dropped or rewritten since, even by somebody who has the key.",
    ),
    "validate": Entry(
        "commands:validate", "Check a file and report what the pipeline would do with its rows, without running it."
    ),
    "sql": Entry("commands:sql", "Query the tables with SQL, read-only."),
    "audit": Entry(
        "audit:audit",
        "Show everything that a model or a score was made from, back to the raw files, or answer one question about "
        "it.",
    ),
    "erase": Entry(
        "audit:erase", "Erase rows from the raw files, the store and Dagster's log, and never use them again."
    ),
    # The name before 0.2; to be removed in the release after it.
    "forget": Entry("audit:erase", "Erase rows.", hidden=True),
    "import": Entry("exchange:importer", "Make a project from what you have: files, settings, data."),
    "inbox": Entry("inbox:app", "Show what people corrected in served answers, newest first"),
    "keys": Entry("keys:app", "The key that signs the changes of the store."),
}
"""Name → command, in the order of the help."""


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
        entry = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=entry.summary, hidden=entry.hidden) if entry else None

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
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(import_module(f"ft_pipeline.cli.{module}"), attribute)
    if isinstance(target, typer.Typer):
        command: Command = typer.main.get_group(target)
        command.name = name
        command.context_settings.update(HELP_NAMES)
        return command
    single = typer.Typer(add_completion=False)
    settings = {**HELP_NAMES, "allow_extra_args": name == "run"}  # it says how to run what they name
    single.command(name, hidden=COMMANDS[name].hidden, context_settings=settings)(target)
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
        _show_error(str(error))
        sys.exit(REFUSED)
    except OSError as error:
        from ft_pipeline.store.atomic_files import describe_write_error

        if (message := describe_write_error(error)) is None:
            raise
        _show_error(message)
        sys.exit(FAILED)
    except SystemExit as ending:
        if ending.code == INTERRUPTED:  # Typer's own, after Ctrl-C
            say(stderr, "ft: stopped. Finished work is kept. Run the same command again to resume.")
        raise


def _show_error(message: str) -> None:

    say(stderr, f"[red]ft:[/red] {plain(message)}")
