"""`ft promote`, `ft rollback`, `ft champion`: the released model."""

from typing import Annotated

import typer

from ft_pipeline.cli import display
from ft_pipeline.cli.common import FAILED, JsonOption, ProjectOption, errors, open_project, out, report
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release import manual_promotion
from ft_pipeline.release.champion import ChampionRecord, current
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers


def promote(
    name: Annotated[str, typer.Argument(help="Experiment (its merged model), or a row of `ft compare`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Release it even if the comparison or a check rejects it. Needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Reason, kept in the record.")] = "",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release a model that beats the best baseline and the current champion by more than noise and passes every check.

    Example: ft promote qlora
    """
    opened = open_project(project)
    store = ArtifactStore(opened.store)
    comparison = _comparison(store)
    if comparison is None:
        raise UserError("There is no comparison to promote from yet. Run `ft run`.")
    try:
        settings = opened.settings.promotion
        record, new = manual_promotion.promote(store, comparison, settings, name, force=force, reason=reason)
    except manual_promotion.NotPromoted as refusal:
        errors.print(f"[red]ft:[/red] {display.plain(str(refusal))}", soft_wrap=True)
        errors.print("ft: to release it anyway, add --force --reason TEXT")
        raise typer.Exit(FAILED) from None
    if not new:
        errors.print(f"ft: {display.plain(record.name)} is already the champion; nothing changed")
    _show_moved(opened, record, as_json)


def rollback(
    reason: Annotated[str, typer.Option("--reason", help="Reason, kept in the record.")] = "",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release the previous champion again, exactly as it was. Run it again to go further back.

    Example: ft rollback --reason "complaints about the tone"
    """
    opened = open_project(project)
    store = ArtifactStore(opened.store)
    _show_moved(opened, manual_promotion.rollback(store, _comparison(store), reason), as_json)


def champion(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show the released model, when it was released and why. With --json, `null` means that there is none yet.

    Example: ft champion
    """
    record = current(open_project(project).store)
    document = record.to_json() if record else None
    report(document, as_json, lambda shown: display.show_champion(out, shown))


def _comparison(store: ArtifactStore) -> Artifact | None:
    pointer = AssetPointers(store.root).read("comparison")
    return store.open(pointer.kind, pointer.fingerprint) if pointer else None


def _show_moved(project: Project, record: ChampionRecord, as_json: bool) -> None:
    """Materialize the record as `champion`, so that the UI shows it too, and print it."""
    from ft_pipeline.execution import run as running

    with live_progress(errors):
        failures = running.materialize_release(project)
    report(record.to_json(), as_json, lambda shown: display.show_champion(out, shown))
    if failures:
        errors.print(f"[red]ft:[/red] the record is written, but {display.plain(failures[0])}", soft_wrap=True)
        raise typer.Exit(FAILED)
