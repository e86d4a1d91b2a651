"""`ft store`: a copy of the store in a bucket or on another disk, which several machines share."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import stderr
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project

app = typer.Typer(no_args_is_help=True)

AddressArgument = Annotated[str, typer.Argument(help="s3://BUCKET/FOLDER, or a folder on another disk.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for a confirmation.")]


@app.callback()
def store() -> None:
    """Share the store through a bucket or another disk."""


@app.command()
@command
def push(project: Project, address: AddressArgument, yes: YesOption = False) -> Answer:
    """Copy what is new in the store to a bucket or another disk. It shows what would be sent, and asks first: the copy
    contains the training data. Nothing is deleted or overwritten there.

    Example: ft store push s3://acme-models/support
    """
    from ft_pipeline.copies.places import open_place
    from ft_pipeline.copies.push import plan_push
    from ft_pipeline.copies.push import push as run_push

    place = open_place(address, project.root)
    if not yes:
        plan = plan_push(project.store, place)
        say(
            stderr,
            f"To {plain(plan.address)}: {len(plan.missing)} files, {plan.bytes / 1e6:.1f} MB, of "
            f"{len(plan.listing.files)} files. They contain the rows of the training data, and no private key.",
        )
        confirm(plan.is_needed, "this push", "Send these files?")
    with transfer_progress("sending") as report:
        result = run_push(project.store, place, project.settings.name, report)
    return Answer(result.to_json(), _show_push)


@app.command()
@command
def pull(project: Project, address: AddressArgument) -> Answer:
    """Bring the store up to date with a copy. All that is fetched is verified before it is used.

    Example: ft store pull s3://acme-models/support
    """
    from ft_pipeline.copies.places import open_place
    from ft_pipeline.copies.pull import pull as run_pull

    with transfer_progress("fetching") as report:
        result = run_pull(project.store, open_place(address, project.root), report)
    return Answer(result.to_json(), _show_pull)


def confirm(needed: bool, what: str, question: str) -> None:
    """Ask before data leaves this disk. UserError if there is no terminal, or if the answer is no."""
    if not needed:
        return
    if not sys.stdin.isatty():
        raise UserError(f"There is no terminal to confirm {what}. Add --yes to go on without being asked.")
    if not typer.confirm(question, err=True):
        raise UserError("Nothing was sent.")


@contextmanager
def transfer_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, and yield a function that updates it: (bytes transferred so far, bytes in all)."""
    columns = (TextColumn(what), BarColumn(bar_width=28), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show_notes(console: Console, notes: list[str]) -> None:
    """Print what the user should know about a copy."""
    for note in notes:
        say(console, f"[yellow]! {plain(note)}[/]")


def _show_push(console: Console, document: dict[str, Any]) -> None:
    say(
        console,
        f"State {document['number']} of {plain(document['address'])} has {document['files']} files; "
        f"{document['sent']} were sent ({document['bytes'] / 1e6:.1f} MB).",
    )
    if unused := len(document["unused"]):
        say(
            console,
            f"{unused} objects there are not part of it: removed or redacted here, or of an interrupted push. Erased "
            "rows may be in them. `--json` lists them; delete them with the tools of the place (docs/copies.md).",
        )
    show_notes(console, document["notes"])


_ORDERS = {
    "behind": "This store now goes on from",
    "equal": "This store was up to date with",
    "ahead": "This store has more than",
}


def _show_pull(console: Console, document: dict[str, Any]) -> None:
    removed = f", {document['removed']} removed" if document["removed"] else ""
    say(
        console,
        f"{_ORDERS[document['order']]} state {document['number']} of {plain(document['address'])}: "
        f"{document['artifacts']} artifacts fetched{removed}, {document['files']} files, "
        f"{document['bytes'] / 1e6:.1f} MB.",
    )
    key = f"Signed with the key {document['key'][:16]}" if document["key"] else "Not signed"
    say(console, f"{key}. Verify it: ft audit --verify")
    show_notes(console, document["notes"])
