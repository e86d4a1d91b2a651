"""`ft worth` and `ft relabel`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import stderr
from ft_pipeline.cli.display_sections import show_section
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.worth.settings import BY, MOST_GROUPS


@command
def worth(
    project: Project,
    by: Annotated[
        str, typer.Option("--by", help="What rows are grouped by: file, table, tag, language, teacher, slice or label.")
    ] = "file",
    groups: Annotated[
        int, typer.Option("--groups", min=1, help="Most groups that are looked at, the largest.")
    ] = MOST_GROUPS,
    labels: Annotated[int, typer.Option("--labels", min=0, help="Probably wrong labels that are shown.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the folds and of the rows left out.")] = 0,
) -> Answer:
    """Tell what each group of rows does for the score, and which labels are probably wrong. A classifier on words
    learns without each group, from train and validation rows. Test rows are not read. Nothing is changed.

    Example: ft worth --by file
    """
    from ft_pipeline.worth.answer import sections

    if by not in BY:
        raise UserError(f"--by {by} is unknown. Choose one of {', '.join(BY)}.")
    document = _ask(project, by, groups, seed)

    def show(console: Console, document: Mapping[str, Any]) -> None:
        for section in sections(document, labels):
            show_section(console, section)
            console.print()

    return Answer(document, show)


def _ask(project: Project, by: str, most_groups: int, seed: int = 0) -> dict[str, Any]:
    """Return the document of the rows of a project."""
    from ft_pipeline.worth.answer import ask
    from ft_pipeline.worth.worth import belongs_to

    store = ArtifactStore(project.store)
    conversations, distilled = (current_artifact(store, asset) for asset in ("conversations", "distilled"))
    if conversations is None:
        raise UserError("The project has no conversations yet. Run `ft run` first.")
    if conversations.redacted:
        raise UserError("A row was erased from the conversations. Run `ft run` first.")
    taught = distilled.path if distilled and belongs_to(distilled, conversations) else None
    return ask(
        conversations.path,
        taught,
        by,
        project.settings.evaluation.slices,
        most_groups=most_groups,
        price=project.settings.costs.label,
        seed=seed,
        tell=lambda group, place, count: say(stderr, plain(f"{place} of {count}: without {group}")),
    )


@command
def relabel(
    project: Project,
    number: Annotated[int, typer.Option("-n", min=1, help="Rows that are asked, the surest first.")] = 20,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port on 127.0.0.1. 0: a free one.")] = 0,
) -> Answer:
    """Label the train rows again whose labels are probably wrong (`ft worth`), on a page on 127.0.0.1, blind to which
    label a row has. Raw files stay as they are: an experiment with `data.relabels` trains on the new labels.

    Example: ft relabel -n 40
    """
    from ft_pipeline.execution.local_page import LocalPage
    from ft_pipeline.worth.relabel_page import RelabelPage, asked_rows, count_decided, result_lines

    document = _ask(project, "label", 0)
    rows = asked_rows(document, number)
    if not rows:
        raise UserError("No label of a train row is probably wrong. There is nothing to label again.")
    served, store = LocalPage(port), ArtifactStore(project.store)
    asked = current_artifact(store, "conversations")
    assert asked is not None

    def require_rows() -> None:
        now = store.open(*asked.reference)
        if now is None or now.redacted:
            raise UserError("Rows were erased since they were read. Run `ft run`, and start `ft relabel` again.")

    page = RelabelPage(project.root, rows, document["labels"], served.stop, require_rows)
    if any(row.id not in page.decided() for row in rows):
        try:
            served.serve(page.app(), lambda url: say(stderr, f"Label at {url}. Press Ctrl-C to stop."))
        except KeyboardInterrupt:
            say(stderr, "ft: stopped. All labels are kept.")
    decided = page.decided()
    found = {**count_decided(rows, decided), "lines": result_lines(rows, decided)}

    def show(console: Console, document: Mapping[str, Any]) -> None:
        for line in document["lines"]:
            say(console, plain(line))

    return Answer(found, show)
