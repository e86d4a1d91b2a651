"""`ft inbox`: what people corrected in served answers, accepted as training data or rejected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import FAILED, ReasonOption, stderr
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_tables import new_table, print_texts
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.inbox.decide import Decided, decide, find_open
from ft_pipeline.inbox.proposals import RAW_FORMAT, Inbox, Proposal, read_inbox, turns_of
from ft_pipeline.inbox.settings import InboxKeys
from ft_pipeline.inbox.traffic import log_path
from ft_pipeline.project import Project
from ft_pipeline.store.asset_pointers import AssetPointers

SHOWN_CHARACTERS = 60
"""Characters of a text in the list."""
SHOWN_BROKEN = 5


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
        lambda console, _: show_inbox(console, found, path, rated_up=rated_up, rated_down=rated_down),
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
    return Answer(document, lambda console, _: show_proposal(console, proposal, turns))


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
        from ft_pipeline.inbox.asset import inbox_asset

        with live_progress(stderr):
            failures = running.materialize_alone(inbox_asset())
    first_run = bool(decided.accepted) and AssetPointers(project.store).read(f"raw_{RAW_FORMAT}") is None
    return Answer(
        decided.to_json(),
        lambda console, _: show_decided(console, decided, first_run),
        FAILED if failures else 0,
        f"the decision is recorded, but {failures[0]}" if failures else None,
    )


def show_inbox(console: Console, found: Inbox, log: Path, *, rated_up: bool, rated_down: bool) -> None:
    """Print the open proposals, and what else is in the log."""
    listed = found.listed(rated_up=rated_up, rated_down=rated_down)
    if not found.traffic.lines:
        say(console, f"The log {plain(str(log))} is empty. Run `ft serve --log {plain(str(log))}`.")
        return
    if listed:
        print_texts(console, _table(listed))
    else:
        say(console, "No proposal is open. Corrections arrive through POST /v1/feedback of `ft serve --log`.")
    for line in _counts(found, rated_up=rated_up, rated_down=rated_down):
        say(console, line)


def _table(listed: Sequence[Proposal]) -> Table:
    titles = ("time (UTC)", "session, workload", "question", "answer", "correction", "by", "checks")
    table = new_table("id", *titles, one_line={"id"})
    for proposal in listed:
        place = ", ".join(name for name in (proposal.session, proposal.workload) if name)
        correction = f"({proposal.kind})" if proposal.correction is None else _cut(proposal.correction)
        texts = (place, _cut(proposal.question), _cut(proposal.answer), correction, proposal.user or "")
        style = "green" if proposal.is_acceptable else "red"
        checks = proposal.checks.partition(": ")[0]  # the reason code; `show` prints the whole sentence
        table.add_row(plain(proposal.id), proposal.when, *map(plain, texts), f"[{style}]{plain(checks)}[/]")
    return table


def _counts(found: Inbox, *, rated_up: bool, rated_down: bool) -> list[str]:
    kinds = [proposal.kind for proposal in found.proposals]
    hidden_up = 0 if rated_up else kinds.count("rated up")
    hidden_down = 0 if rated_down else kinds.count("rated down")
    broken = found.traffic.broken
    later = ", ".join(found.rated_down_later)
    lines = [
        f"Rated up: {hidden_up} (list them with --rated-up)." if hidden_up else "",
        f"Rated down and not corrected: {hidden_down} (list them with --rated-down)." if hidden_down else "",
        f"Accepted, and rated down since then: {plain(later)}. Erase what is wrong with `ft erase`." if later else "",
        f"Calls with feedback that are not in the log: {found.without_call}." if found.without_call else "",
        f"Lines that cannot be read: {len(broken)}." if broken else "",
        *(f"  {plain(line.describe())}" for line in broken[:SHOWN_BROKEN]),
    ]
    return [line for line in lines if line]


def show_proposal(console: Console, proposal: Proposal, turns: Sequence[tuple[str, str]]) -> None:
    """Print the whole conversation of a proposal, the correction last."""
    for role, text in turns:
        say(console, f"[bold]{plain(role)}[/]: {plain(text)}")
    if proposal.correction is not None:
        say(console, f"[bold]correction[/]: {plain(proposal.correction)}")
    by = f" by {plain(proposal.user)}" if proposal.user else ""
    say(console, f"{proposal.kind}, {proposal.when}{by}. Checks: {plain(proposal.checks)}")
    if proposal.comment:
        say(console, f"Comment: {plain(proposal.comment)}")


def show_decided(console: Console, decided: Decided, first_run: bool) -> None:
    """Print what was decided, and what follows. first_run: whether the automation does not know the folder yet."""
    if decided.accepted:
        files = ", ".join(f"data/raw/traces/{name}" for name in decided.files)
        say(console, f"Accepted {len(decided.accepted)}. Added to {files}.")
        follow = (
            "Run `ft run` to build the tables"
            if first_run
            else "The tables follow while `ft ui` runs, or with `ft run`"
        )
        say(console, f"{follow}.")
    if decided.rejected:
        say(console, f"Rejected {len(decided.rejected)}.")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"
