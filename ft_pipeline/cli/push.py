"""`ft push`: give a model to others, through a hub or a bucket."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import experiment_names, stderr
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release.disclosure.facts import export_facts
from ft_pipeline.release.disclosure.folder import SIGNATURE, disclose
from ft_pipeline.release.export.huggingface import plan_export, write_export
from ft_pipeline.release.export.prompt_files import write_prompt_files
from ft_pipeline.release.intact import require_intact
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.release.push.bucket import BucketPrefix
from ft_pipeline.release.push.destination import Destination, Plan
from ft_pipeline.release.push.hub import MAIN, HubRepository
from ft_pipeline.release.push.parcel import Parcel, is_export, parcel_of
from ft_pipeline.store.artifact_redaction import drafts_folder
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.buckets import SCHEME
from ft_pipeline.store.signing import find_key

HUB = "hub"


@command
def push(
    project: Project,
    name: Annotated[
        str,
        typer.Argument(
            help="`champion`, an experiment, a row of `ft compare`, or an export folder.",
            autocompletion=experiment_names,
        ),
    ],
    target: Annotated[str, typer.Argument(help="`hub`, or s3://BUCKET/FOLDER.")],
    repository: Annotated[
        str | None, typer.Option("--name", help="OWNER/REPOSITORY on the hub (default: the project's name).")
    ] = None,
    branch: Annotated[str, typer.Option("--branch", "--revision", help="Branch of the repository.")] = MAIN,
    merged: Annotated[bool, typer.Option("--merged", help="Push the whole model instead of the adapter.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for a confirmation.")] = False,
) -> Answer:
    """Send a model with its card, bill of materials and signature to a private repository of the Hugging Face Hub, or
    to a bucket. It shows what would be sent, and asks first. Data rows are never sent.

    Example: ft push champion hub --name acme/support
    """
    destination = _destination(target, repository, branch, project)
    if not yes and not _has_terminal():
        raise UserError("There is no terminal to confirm this push. Add --yes to push without being asked.")
    with _export_folder(project, name, merged) as folder:
        parcel = parcel_of(folder)
        plan = destination.plan(parcel)
        _show_plan(plan, parcel)
        if not yes and not typer.confirm("Send these files?", err=True):
            raise UserError("Nothing was sent.")
        address = destination.send(parcel, lambda sent: say(stderr, f"  {plain(sent)}"))
        return Answer(_document(name, address, parcel), _show_result)


def _destination(target: str, repository: str | None, branch: str, project: Project) -> Destination:
    if target.startswith(SCHEME):
        if repository is not None or branch != MAIN:
            raise UserError(
                "--name and --branch are for the hub. Write the folder into the address: s3://BUCKET/FOLDER."
            )
        return BucketPrefix(target)
    if target != HUB:
        raise UserError(f"{target!r} is not a place to push to. Use `hub`, or s3://BUCKET/FOLDER.")
    return HubRepository(repository or project.settings.name, branch)


def _has_terminal() -> bool:
    return sys.stdin.isatty()


@contextmanager
def _export_folder(project: Project, name: str, merged: bool) -> Iterator[Path]:
    """Yield the export folder that `name` is, or a temporary one with an export of the model of that name."""
    if is_export(Path(name)):
        if merged:
            raise UserError(f"{name} is an export folder, which is sent as it is. Remove --merged.")
        yield Path(name).absolute()
        return
    store = ArtifactStore(project.store)
    model = find_model(store, name)
    require_intact(store, model)
    drafts_folder(store.root).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="push-", dir=drafts_folder(store.root)) as scratch:
        plan = plan_export(store, model, Path(scratch) / project.settings.name, merged=merged)
        facts, key = export_facts(store, plan.model, project.settings), find_key(store.root)

        def describe(folder: Path) -> None:
            write_prompt_files(store, plan.model, folder, with_texts=False)
            disclose(folder, facts, key)

        write_export(plan, describe)
        yield plan.target


def _show_plan(plan: Plan, parcel: Parcel) -> None:
    say(stderr, f"To {plain(plan.address)}:")
    for name in parcel.hashes:
        say(stderr, f"  {parcel.size(name):>13,}  {plain(name)}")
    signed = "signed" if SIGNATURE in parcel.hashes else "not signed: the project has no key (`ft keys new`)"
    counted = f"{len(parcel.hashes)} files, {parcel.bytes / 1e6:.1f} MB, {signed}. No data rows are sent."
    say(stderr, counted)
    for note in plan.notes:
        say(stderr, plain(note))


def _document(name: str, address: str, parcel: Parcel) -> dict[str, Any]:
    return {"name": name, "address": address, "files": dict(parcel.hashes), "bytes": parcel.bytes}


def _show_result(console: Console, document: dict[str, Any]) -> None:
    count, address = len(document["files"]), plain(document["address"])
    say(console, f"Pushed {plain(document['name'])}: {count} files are at {address}")
