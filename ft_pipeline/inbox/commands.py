"""`ft inbox`: what people corrected in served answers, accepted as training data or rejected."""

from pathlib import Path
from typing import Annotated

import typer

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import FAILED, ReasonOption, stderr
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_text import say
from ft_pipeline.errors import UserError
from ft_pipeline.inbox import display
from ft_pipeline.inbox.decide import Decided, decide, find_open
from ft_pipeline.inbox.proposals import RAW_FORMAT, read_inbox, turns_of
from ft_pipeline.inbox.settings import InboxKeys
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
@command
def list_open(
    context: typer.Context,
    project: UnopenedProject,
    log: LogOption = None,
    rated_up: RatedUpOption = False,
    rated_down: RatedDownOption = False,
) -> Answer | None:
    """Show what people corrected in served answers, newest first, and accept it as training data or reject it.

    Example: ft inbox --log traffic
    """
    if context.invoked_subcommand is not None:
        if any(context.params.values()):
            raise UserError(f"Options before {context.invoked_subcommand!r} are not read. Write them after it.")
        return None
    opened = project.open()
    path = log_path(opened, log)
    found = read_inbox(opened, path)
    return Answer(
        found.to_json(rated_up=rated_up, rated_down=rated_down),
        lambda console, _: display.show_inbox(console, found, path, rated_up=rated_up, rated_down=rated_down),
    )


@app.command()
@command
def show(
    project: Project,
    identity: Annotated[str, typer.Argument(metavar="ID", help="Id of a proposal.")],
    log: LogOption = None,
) -> Answer:
    """Show the whole conversation of a proposal.

    Example: ft inbox show chatcmpl-1
    """
    found = read_inbox(project, log_path(project, log))
    proposal = find_open(found, identity)
    turns = turns_of(found.traffic.calls[identity])
    document = {**proposal.to_json(), "turns": [{"role": role, "text": text} for role, text in turns]}
    return Answer(document, lambda console, _: display.show_proposal(console, proposal, turns))


@app.command()
@command
def accept(
    project: Project,
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
) -> Answer:
    """Add proposals to data/raw/traces, from which the next training learns.

    Example: ft inbox accept chatcmpl-1 chatcmpl-2
    """
    path = log_path(project, log)
    if bool(identities) == everything:
        raise UserError("Nothing says what to accept. Name ids of `ft inbox`, or use --all.")
    if everything:
        listed = read_inbox(project, path).listed(rated_up=rated_up, rated_down=rated_down)
        identities = [proposal.id for proposal in listed if proposal.is_acceptable]
        if left := len(listed) - len(identities):
            say(stderr, f"ft: {left} of {len(listed)} are left open, since the checks would not accept them")
        if not identities:
            raise UserError("No open proposal can be accepted. List them with `ft inbox`.")
    return _materialized(project, path, decide(project, path, accept=identities or (), reason=reason))


@app.command()
@command
def reject(
    project: Project,
    identities: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of proposals.")],
    reason: ReasonOption = "",
    log: LogOption = None,
) -> Answer:
    """Record that proposals are not used. They come back only with newer feedback.

    Example: ft inbox reject chatcmpl-3 --reason "the correction is wrong"
    """
    path = log_path(project, log)
    return _materialized(project, path, decide(project, path, reject=identities, reason=reason))


def _materialized(project: Project, log: Path, decided: Decided) -> Answer:
    """Materialize the asset `inbox`, so that the UI shows what is open, and return what was decided."""
    failures: list[str] = []
    if InboxKeys.of(project.settings).inbox.log is not None and log_path(project, None) == log:
        from ft_pipeline.execution import run as running
        from ft_pipeline.inbox.asset import inbox

        with live_progress(stderr):
            failures = running.materialize_alone(inbox)
    first_run = bool(decided.accepted) and AssetPointers(project.store).read(f"raw_{RAW_FORMAT}") is None
    return Answer(
        decided.to_json(),
        lambda console, _: display.show_decided(console, decided, first_run),
        FAILED if failures else 0,
        f"the decision is recorded, but {failures[0]}" if failures else None,
    )
