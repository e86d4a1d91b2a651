"""`ft backup` and `ft restore`: a whole project, kept elsewhere."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.copies.commands import YesOption, confirm, show_notes, transfer_progress
from ft_pipeline.project import Project


@command
def backup(
    project: Project,
    target: Annotated[str, typer.Argument(help="Folder on another disk, FILE.tar, or s3://BUCKET/FOLDER.")],
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Include the private key. Who has it can sign changes of the store.")
    ] = False,
    yes: YesOption = False,
) -> Answer:
    """Back up the project: settings, experiments, raw files, store, and Dagster's run history, while runs go on. A
    folder gets only what is new, and keeps its earlier states. It asks before it sends data to a bucket.

    Example: ft backup /mnt/backup/support
    """
    from ft_pipeline.copies.archive import writing_place
    from ft_pipeline.copies.backup import back_up
    from ft_pipeline.store.buckets import SCHEME

    if not yes and target.startswith(SCHEME):
        confirm(True, "this backup", f"Send the whole project, with its data, to {target}?")
    with writing_place(target, project.root) as place, transfer_progress("copying") as report:
        result = back_up(project, place, report, with_key=with_key)
    return Answer(result.to_json(), _show_backup)


@command
def restore(
    source: Annotated[str, typer.Argument(help="Folder, FILE.tar or s3://BUCKET/FOLDER of `ft backup`.")],
    directory: Annotated[Path, typer.Argument(help="New or empty folder for the project.")],
    number: Annotated[int | None, typer.Option("--number", help="State to restore (default: the newest).")] = None,
) -> Answer:
    """Write a project folder as it was backed up. All files are verified.

    Example: ft restore /mnt/backup/support support
    """
    from ft_pipeline.copies.archive import reading_place
    from ft_pipeline.copies.restore import restore as run_restore

    with reading_place(source) as place, transfer_progress("restoring") as report:
        result = run_restore(place, directory, report, number)
    return Answer(result.to_json(), _show_restore)


def _show_backup(console: Console, document: dict[str, Any]) -> None:
    key = "It contains the private key: keep it safe." if document["with_key"] else "The private key is not in it."
    say(
        console,
        f"State {document['number']} in {plain(document['address'])}: {document['files']} files, "
        f"{document['bytes'] / 1e6:.1f} MB; {document['sent']} were new ({document['sent_bytes'] / 1e6:.1f} MB). {key}",
    )
    show_notes(console, document["notes"])


def _show_restore(console: Console, document: dict[str, Any]) -> None:
    folder, made = plain(document["project"]), plain(document["made"])
    say(
        console,
        f"Restored {folder} as it was on {made} (state {document['number']}): {document['files']} files, "
        f"{document['bytes'] / 1e6:.1f} MB. Verify it: ft audit --verify --project {folder}",
    )
    show_notes(console, document["notes"])
