"""`ft promote`, `ft rollback`, `ft champion`: the released model."""

from typing import Annotated

import typer

from ft_pipeline.cli import display
from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import FAILED, ReasonOption, show_error, stderr, warn_of_changed_evidence
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


@command
def promote(
    project: Project,
    name: Annotated[str, typer.Argument(help="Experiment (its merged model), or a row of `ft compare`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Release it even if the comparison or a check rejects it. Needs --reason.")
    ] = False,
    reason: ReasonOption = "",
) -> Answer:
    """Release a model that beats the best baseline and the current champion by more than noise and passes every check.

    Example: ft promote qlora
    """
    store = ArtifactStore(project.store)
    comparison = current_artifact(store, "comparison")
    if comparison is None:
        raise UserError("There is no comparison to promote from yet. Run `ft run`.")
    try:
        settings = project.settings
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
        show_error(str(refusal))
        say(stderr, "ft: to release it anyway, add --force --reason TEXT")
        raise typer.Exit(FAILED) from None
    if request is not None:
        return Answer(vars(request), lambda console, _: say(console, f"Asked for {plain(request.describe())}"))
    assert record is not None
    if not is_new:
        say(stderr, f"ft: {plain(record.name)} is already the champion; nothing changed")
    return _materialized(project, record)


@command
def approve(
    project: Project,
    number: Annotated[
        int | None, typer.Argument(help="Number of the request. Without it, the open one is shown.")
    ] = None,
) -> Answer:
    """Release the model that another person, or a run of another user, asked for (`promotion.two_people`).

    Example: ft approve 3
    """
    if number is None:
        waiting = requests.open_request(project.store)
        document = vars(waiting) if waiting else None
        return Answer(document, lambda console, _: display.show_request(console, waiting))
    return _materialized(project, requests.approve(project.store, number))


@command
def rollback(project: Project, reason: ReasonOption = "") -> Answer:
    """Release the previous champion again, exactly as it was. Run it again to go further back.

    Example: ft rollback --reason "complaints about the tone"
    """
    store = ArtifactStore(project.store)
    return _materialized(project, manual_promotion.rollback(store, current_artifact(store, "comparison"), reason))


@command
def champion(project: Project) -> Answer:
    """Show the released model, when it was released and why. With --json, `null` means that there is none yet.

    Example: ft champion
    """
    store = ArtifactStore(project.store)
    record = current(store.root)
    if record:
        warn_of_changed_evidence(store, released_artifacts(record.fingerprints, record.evidence.get("comparison")))
    return Answer(record.model_dump() if record else None, display.show_champion)


def _materialized(project: Project, record: ChampionRecord) -> Answer:
    """Materialize the record as `champion`, so that the UI shows it too, and return it."""
    from ft_pipeline.execution import run as running

    with live_progress(stderr):
        failures = running.materialize_release(project)
    error = f"the record is written, but {failures[0]}" if failures else None
    return Answer(record.model_dump(), display.show_champion, FAILED if failures else 0, error)
