"""`ft promote`, `ft rollback`, `ft champion`: the released model."""

from typing import Annotated

import typer

from ft_pipeline.cli import display
from ft_pipeline.cli.common import (
    FAILED,
    JsonOption,
    ProjectOption,
    ReasonOption,
    open_project,
    print_result,
    stderr,
    stdout,
    warn_of_changed_evidence,
)
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release import manual_promotion, requests
from ft_pipeline.release.champion import current
from ft_pipeline.release.intact import released_artifacts
from ft_pipeline.release.looks import decided_by
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact


def promote(
    name: Annotated[str, typer.Argument(help="Experiment (its merged model), or a row of `ft compare`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Release it even if the comparison or a check rejects it. Needs --reason.")
    ] = False,
    reason: ReasonOption = "",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release a model that beats the best baseline and the current champion by more than noise and passes every check.

    Example: ft promote qlora
    """
    opened_project = open_project(project)
    store = ArtifactStore(opened_project.store)
    comparison = current_artifact(store, "comparison")
    if comparison is None:
        raise UserError("There is no comparison to promote from yet. Run `ft run`.")
    try:
        settings = opened_project.settings
        record, is_new, request = manual_promotion.promote(
            store,
            comparison,
            name,
            read=decided_by(settings),
            force=force,
            reason=reason,
            two_people=settings.promotion.two_people,
        )
    except manual_promotion.NotPromoted as refusal:
        say(stderr, f"[red]ft:[/red] {plain(str(refusal))}")
        say(stderr, "ft: to release it anyway, add --force --reason TEXT")
        raise typer.Exit(FAILED) from None
    if request is not None:
        print_result(vars(request), as_json, lambda _: say(stdout, f"Asked for {plain(request.describe())}"))
        return
    assert record is not None
    if not is_new:
        say(stderr, f"ft: {plain(record.name)} is already the champion; nothing changed")
    _materialize_and_show(opened_project, record, as_json)


def approve(
    number: Annotated[
        int | None, typer.Argument(help="Number of the request. Without it, the open one is shown.")
    ] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release the model that another person, or a run of another user, asked for (`promotion.two_people`).

    Example: ft approve 3
    """
    opened_project = open_project(project)
    if number is None:
        waiting = requests.open_request(opened_project.store)
        print_result(vars(waiting) if waiting else None, as_json, lambda _: display.show_request(stdout, waiting))
        return
    _materialize_and_show(opened_project, requests.approve(opened_project.store, number), as_json)


def rollback(
    reason: ReasonOption = "",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release the previous champion again, exactly as it was. Run it again to go further back.

    Example: ft rollback --reason "complaints about the tone"
    """
    opened_project = open_project(project)
    store = ArtifactStore(opened_project.store)
    record = manual_promotion.rollback(store, current_artifact(store, "comparison"), reason)
    _materialize_and_show(opened_project, record, as_json)


def champion(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show the released model, when it was released and why. With --json, `null` means that there is none yet.

    Example: ft champion
    """
    store = ArtifactStore(open_project(project).store)
    record = current(store.root)
    if record:
        warn_of_changed_evidence(store, released_artifacts(record.fingerprints, record.evidence.get("comparison")))
    document = record.model_dump() if record else None
    print_result(document, as_json, lambda shown: display.show_champion(stdout, shown))


def _materialize_and_show(project: Project, record: ChampionRecord, as_json: bool) -> None:
    """Materialize the record as `champion`, so that the UI shows it too, and print it."""
    from ft_pipeline.execution import run as running

    with live_progress(stderr):
        failures = running.materialize_release(project)
    print_result(record.model_dump(), as_json, lambda shown: display.show_champion(stdout, shown))
    if failures:
        say(stderr, f"[red]ft:[/red] the record is written, but {plain(failures[0])}")
        raise typer.Exit(FAILED)
