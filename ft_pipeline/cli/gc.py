"""`ft gc`: free disk space."""

from typing import Annotated

import typer

from ft_pipeline.cli import display_gc
from ft_pipeline.cli.common import JsonOption, ProjectOption, open_project, print_result, stdout


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, without removing it.")
    ] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove everything from the store that is older than `retention.keep_days` and not needed by what is kept.

    Example: ft gc --dry-run
    """
    from ft_pipeline.execution.garbage_collection import collect_garbage

    garbage = collect_garbage(open_project(project), dry_run=dry_run)
    document = {"dry_run": dry_run, **garbage.to_json()}
    print_result(document, as_json, lambda _: display_gc.show_garbage(stdout, garbage, dry_run))
