"""Output of `ft import` and `ft export-data` in a terminal."""

from typing import Any

from rich.console import Console

from ft_pipeline.cli.display_tables import new_table, print_texts
from ft_pipeline.cli.display_text import plain, say

TITLES = {
    "taken_over": "taken over",
    "changed": "became something else",
    "no_counterpart": "no counterpart here",
    "ignored": "not needed",
}
STYLES = {"taken_over": "green", "changed": "yellow", "no_counterpart": "red", "ignored": "dim"}


def show_import(console: Console, document: dict[str, Any]) -> None:
    """Print what was taken over, what became something else, and what has no counterpart."""
    for kind, title in TITLES.items():
        lines = [line for line in document["lines"] if line["kind"] == kind]
        if not lines:
            continue
        columns = ["from", "theirs", *(["ours"] if kind in ("taken_over", "changed") else [])]
        columns += ["effect"] if kind != "taken_over" else []
        table = new_table(*columns)
        for line in lines:
            cells = [_sources(line["sources"]), line["theirs"], line["ours"], line["effect"]]
            shown = [cells[("from", "theirs", "ours", "effect").index(column)] for column in columns]
            table.add_row(*map(plain, shown))
        say(console, f"[{STYLES[kind]}]{title}[/]")
        print_texts(console, table)
        console.print()
    experiments = ", ".join(document["experiments"])
    say(console, f"Created the project folder {document['project']}, with the experiments {experiments}.")
    say(console, f"Next: ft validate the files in data/raw, then ft run --project {document['project']}")


def _sources(sources: list[str]) -> str:
    sources = [source for source in sources if source]
    return sources[0] if len(sources) == 1 else f"{len(sources)} files" if sources else ""


def show_export(console: Console, document: dict[str, Any]) -> None:
    """Print what `ft export-data` wrote, and which rows the format cannot hold."""
    splits = ", ".join(f"{name} {count:,}" for name, count in document["splits"].items())
    say(
        console, f"Wrote {document['written']:,} rows{f' ({splits})' if splits else ''}: {', '.join(document['files'])}"
    )
    for reason, count in document["left_out"].items():
        named = document["left_out_rows"][reason]
        more = f" and {count - len(named):,} more" if count > len(named) else ""
        console.print(plain(f"Left out, since the format cannot hold {reason}: {count:,} ({', '.join(named)}{more})"))
    for key, count in document["extra_keys"].items():
        say(console, f"{count:,} rows have the key `{key}`, which some readers ignore.")
