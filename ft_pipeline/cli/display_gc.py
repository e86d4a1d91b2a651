"""Output of `ft gc` in a terminal."""

from collections import Counter

from rich.console import Console

from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import say
from ft_pipeline.store.garbage import Garbage


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
