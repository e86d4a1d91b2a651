"""`ft gc`: free disk space."""

from typing import Annotated

import typer

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.display_gc import show_garbage
from ft_pipeline.project import Project


@command
def gc(
    project: Project,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, without removing it.")
    ] = False,
) -> Answer:
    """Remove everything from the store that is older than `retention.keep_days` and not needed by what is kept.

    Example: ft gc --dry-run
    """
    from ft_pipeline.execution.garbage_collection import collect_garbage

    garbage = collect_garbage(project, dry_run=dry_run)
    document = {"dry_run": dry_run, **garbage.to_json()}
    return Answer(document, lambda console, _: show_garbage(console, garbage, dry_run))
