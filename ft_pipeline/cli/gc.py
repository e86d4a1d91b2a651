"""`ft gc`: free disk space."""

from collections import Counter
from typing import Annotated

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import say
from ft_pipeline.project import Project
from ft_pipeline.store.garbage import Garbage


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


def show_garbage(console: Console, garbage: Garbage, dry_run: bool) -> None:
    """Print how many artifacts of each kind, and other files, are removed, and how much space that frees."""
    kinds = Counter(artifact.kind for artifact in garbage.artifacts)
    other_counts = {"unfinished work": len(garbage.folders), "copies of raw files": len(garbage.blobs)}
    counts = {**dict(sorted(kinds.items())), **other_counts}
    rows = [(name, count) for name, count in counts.items() if count]
    if not rows:
        say(console, "There is nothing to remove.")
        return
    table = new_table("item", "count", right={"count"})
    for name, count in rows:
        table.add_row(name, str(count))
    console.print(table)
    say(console, f"{'Would free' if dry_run else 'Freed'} {garbage.bytes / 1e6:.1f} MB.")
