"""`ft worth`."""

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


@command
def worth(
    project: Project,
    by: Annotated[
        str, typer.Option("--by", help="What rows are grouped by: file, table, tag, language, teacher, slice or label.")
    ] = "file",
    groups: Annotated[int, typer.Option("--groups", min=1, help="Most groups that are looked at, the largest.")] = 12,
    labels: Annotated[int, typer.Option("--labels", min=0, help="Probably wrong labels that are shown.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the folds and of the rows left out.")] = 0,
) -> Answer:
    """Tell what each group of rows does for the score, and which labels are probably wrong. A classifier on words
    learns without each group, from train and validation rows. Test rows are not read. Nothing is changed.

    Example: ft worth --by file
    """
    from ft_pipeline.worth.answer import sections, worth_of
    from ft_pipeline.worth.known_rows import BY, read_known_rows

    if by not in BY:
        raise UserError(f"--by {by} is unknown. Choose one of {', '.join(BY)}.")
    store = ArtifactStore(project.store)
    conversations, distilled = (current_artifact(store, asset) for asset in ("conversations", "distilled"))
    if conversations is None:
        raise UserError("The project has no conversations yet. Run `ft run` first.")
    rows, total = read_known_rows(conversations.path, distilled.path if distilled else None)
    document = worth_of(
        rows,
        by,
        {name: rule.model_dump(mode="json") for name, rule in project.settings.evaluation.slices.items()},
        most_groups=groups,
        price=project.settings.costs.label,
        total=total,
        seed=seed,
        tell=lambda group: say(stderr, plain(f"without {group}")),
    )

    def show(console: Console, document: Mapping[str, Any]) -> None:
        for section in sections(document, labels):
            show_section(console, section)
            console.print()

    return Answer(document, show)
