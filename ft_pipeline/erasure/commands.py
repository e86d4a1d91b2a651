"""`ft erase`: erase rows."""

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import ReasonOption
from ft_pipeline.cli.display_text import plain, say, say_line, truncate

if TYPE_CHECKING:
    from ft_pipeline.erasure.erase import ErasureResult


@command
def erase(
    project: UnopenedProject,
    path: Annotated[Path, typer.Argument(help="File in data/raw.")],
    rows: Annotated[list[int], typer.Argument(help="Rows to erase: line, list index or data row, counted from 1.")],
    reason: ReasonOption,
) -> Answer:
    """Erase rows from the raw files, the store and Dagster's log, and never use them again. This cannot be undone.

    Example: ft erase data/raw/alpaca/support_01.jsonl 12 --reason "deletion request 4711"
    """
    from ft_pipeline.erasure.erase import erase as erase_rows

    result = erase_rows(project.open(despite_secrets=True), path, rows, reason)
    return Answer(result.to_json(), lambda console, _: show_erasure(console, result))


def show_erasure(console: Console, result: "ErasureResult") -> None:
    """Print what was erased, which models used it, and what to do next."""
    from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS

    say(console, f"Erased (record {result.record} in data/store/redactions, hashes in data/excluded.yaml):")
    # A document of a trace file has rows of several tables, which name it relative to their own folder.
    for place in dict.fromkeys(
        (normpath(f"data/raw/{row['format']}/{row['file']}"), row["row"]) for row in result.rows
    ):
        say(console, f"  {plain(place[0])}:{place[1]}")
    kinds = Counter(artifact["kind"] for artifact in result.artifacts)
    shown = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items())) or "none contained it"
    files = plain(", ".join(result.files)) or "no raw file"
    say(console, f"Redacted: {files}; {result.raw_files} stored copies of raw files; artifacts: {shown};")
    say(
        console, f"  {result.events} places in Dagster's databases and logs; {result.answers} answers in teachers' logs"
    )
    for model in result.models:
        records = (
            f", champion record {', '.join(map(str, model['champion_records']))}" if model["champion_records"] else ""
        )
        say(console, f"  {plain(model['key'])} {model['fingerprint'][:SHOWN_DIGITS]} {plain(model['how'])}{records}")
    if result.champion:
        say(
            console,
            "[yellow]The current champion is one of these models. It stays released until another one is promoted.[/]",
        )
    if result.retrain:
        say(console, f"The next `ft run` retrains without it: {plain(', '.join(result.retrain))}")
    for shared in result.stays:
        _show_shared(console, shared)
    for note in result.notes:
        say(console, f"[yellow]! {plain(note)}[/]")


def _show_shared(console: Console, shared: Mapping[str, Any]) -> None:
    """Print a text that stays, the rows and files because of which it does, and how to erase it there."""
    text = plain(truncate(shared["text"].replace("\n", " ")))
    say(console, f"[yellow]“{text}” stays, because other rows or files have it, too. To erase it there:[/]")
    rows_of: dict[str, list[int]] = {}
    for place in shared["rows"]:
        rows_of.setdefault(place["file"], []).extend([] if place["row"] is None else [place["row"]])
    for file, rows in rows_of.items():
        command = f"ft erase {shlex.quote(file)} {' '.join(map(str, rows))} --reason TEXT"
        say_line(console, plain(f"  {command}" if rows else f"  edit {file}"))
    if shared["more"]:
        say(console, f"  and {shared['more']} more rows, which are listed after these are erased")
