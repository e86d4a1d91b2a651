"""`ft inbox`: what people corrected in served answers, accepted as training data or rejected."""

from pathlib import Path
from typing import Annotated

import typer

from ft_pipeline.cli import display_inbox
from ft_pipeline.cli.common import (
    FAILED,
    JsonOption,
    ProjectOption,
    ReasonOption,
    open_project,
    print_result,
    stderr,
    stdout,
)
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.inbox.decide import Decided, decide, find_open
from ft_pipeline.inbox.proposals import RAW_FORMAT, read_inbox, turns_of
from ft_pipeline.inbox.traffic import log_path
from ft_pipeline.project import Project
from ft_pipeline.store.asset_pointers import AssetPointers

app = typer.Typer()
LogOption = Annotated[
    Path | None,
    typer.Option("--log", help="Folder or file of `ft serve --log` (default: `inbox.log` in project.yaml)."),
]
RatedUpOption = Annotated[bool, typer.Option("--rated-up", help="Also answers that were rated up.")]
RatedDownOption = Annotated[bool, typer.Option("--rated-down", help="Also answers that were rated down.")]


@app.callback(invoke_without_command=True)
def list_open(
    context: typer.Context,
    log: LogOption = None,
    rated_up: RatedUpOption = False,
    rated_down: RatedDownOption = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what people corrected in served answers, newest first, and accept it as training data or reject it.

    Example: ft inbox --log traffic
    """
    if context.invoked_subcommand is not None:
        if log is not None or rated_up or rated_down or project is not None or as_json:
            raise UserError(f"Options before {context.invoked_subcommand!r} are not read. Write them after it.")
        return
    opened = open_project(project)
    path = log_path(opened, log)
    found = read_inbox(opened, path)
    print_result(
        found.to_json(rated_up=rated_up, rated_down=rated_down),
        as_json,
        lambda _: display_inbox.show_inbox(stdout, found, path, rated_up=rated_up, rated_down=rated_down),
    )


@app.command()
def show(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Id of a proposal.")],
    log: LogOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the whole conversation of a proposal.

    Example: ft inbox show chatcmpl-1
    """
    opened = open_project(project)
    found = read_inbox(opened, log_path(opened, log))
    proposal = find_open(found, identity)
    turns = turns_of(found.traffic.calls[identity])
    document = {**proposal.to_json(), "turns": [{"role": role, "text": text} for role, text in turns]}
    print_result(document, as_json, lambda _: display_inbox.show_proposal(stdout, proposal, turns))


@app.command()
def accept(
    identities: Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Ids of proposals.")] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="All open corrections that the checks accept; with --rated-up or --rated-down, these too."
        ),
    ] = False,
    rated_up: RatedUpOption = False,
    rated_down: RatedDownOption = False,
    reason: ReasonOption = "",
    log: LogOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add proposals to data/raw/traces, from which the next training learns.

    Example: ft inbox accept chatcmpl-1 chatcmpl-2
    """
    opened = open_project(project)
    path = log_path(opened, log)
    if bool(identities) == everything:
        raise UserError("Nothing says what to accept. Name ids of `ft inbox`, or use --all.")
    if everything:
        listed = read_inbox(opened, path).listed(rated_up=rated_up, rated_down=rated_down)
        identities = [proposal.id for proposal in listed if proposal.is_acceptable]
        if left := len(listed) - len(identities):
            say(stderr, f"ft: {left} of {len(listed)} are left open, since the checks would not accept them")
        if not identities:
            raise UserError("No open proposal can be accepted. List them with `ft inbox`.")
    decided = decide(opened, path, accept=identities or (), reason=reason)
    _materialize_and_show(opened, path, decided, as_json)


@app.command()
def reject(
    identities: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of proposals.")],
    reason: ReasonOption = "",
    log: LogOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record that proposals are not used. They come back only with newer feedback.

    Example: ft inbox reject chatcmpl-3 --reason "the correction is wrong"
    """
    opened = open_project(project)
    path = log_path(opened, log)
    decided = decide(opened, path, reject=identities, reason=reason)
    _materialize_and_show(opened, path, decided, as_json)


def _materialize_and_show(project: Project, log: Path, decided: Decided, as_json: bool) -> None:
    """Materialize the asset `inbox`, so that the UI shows what is open, and print what was decided."""
    failures: list[str] = []
    if project.settings.inbox.log is not None and log_path(project, None) == log:
        from ft_pipeline.defs.inbox import inbox
        from ft_pipeline.execution import run as running

        with live_progress(stderr):
            failures = running.materialize_alone(inbox)
    first_run = bool(decided.accepted) and AssetPointers(project.store).read(f"raw_{RAW_FORMAT}") is None
    print_result(decided.to_json(), as_json, lambda _: display_inbox.show_decided(stdout, decided, first_run))
    if failures:
        say(stderr, f"[red]ft:[/red] the decision is recorded, but {plain(failures[0])}")
        raise typer.Exit(FAILED)
