"""Output of `ft inspect` in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from ft_pipeline.cli.display_text import plain, say, say_line

INDENT = 12
"""Number of columns before a text."""


def show_inspection(console: Console, document: Mapping[str, Any], has_test_rows: bool) -> None:
    """Print the languages of the table, then each list with its rows.

    has_test_rows: whether the table can have answers with a held-out loss.
    """
    table, languages = plain(document["table"]), document["languages"]
    say(console, f"[bold]{table}[/]: {document['rows']:,} rows")
    if not document["rows"]:
        return
    shares = ", ".join(f"{name} {count:,}" for name, count in languages["counts"].items())
    say(console, f"Languages of {languages['sampled']:,} sampled rows: {plain(shares)}")
    if document["held_out"]:
        _show_held_out(console, document["held_out"])
    elif "not_shown" in document:
        model = plain(document["not_shown"])
        say(console, f"Held-out loss: not shown, because {model} is not known to lead on the validation rows.")
    elif has_test_rows:
        say(console, "Held-out loss: no experiment has scores yet. Run `ft run`.")
    _show_list(console, "Oddest", document["oddest"], "None: no row is far from the others in any measure.")
    _show_list(console, "Longest", document["longest"], "")
    example = (document["oddest"] or document["longest"])[0]
    where = f"file = '{example['file']}' and row = {example['row']}".replace('"', '\\"')
    say(console, "\nA whole row:")
    say_line(console, f'  ft sql "select * from {table} where {plain(where)}" --json')


def _show_held_out(console: Console, held_out: Mapping[str, Any]) -> None:
    model = plain(f"{held_out['experiment']}/{held_out['model']}")
    title = f"Highest held-out loss of {model} ({held_out['scored']:,} test answers)"
    _show_list(console, title, held_out["highest_loss"], "No test answer is from this table.")
    nothing = "None: no loss is higher than the base model's."
    if held_out["regressions"] is None:
        nothing = "Unknown: the base model was not scored on these rows."
    _show_list(console, f"Loss of {model} that rose most over the base model's", held_out["regressions"] or [], nothing)


def _show_list(console: Console, title: str, rows: Sequence[Mapping[str, Any]], nothing: str) -> None:
    say(console, f"\n[bold]{title}[/]")
    if not rows:
        console.print(nothing)
    for row in rows:
        say(console, f"  {plain(row['origin'])}  [dim]{plain(row['language'])}[/]  {plain(row['why'])}")
        _show_text(console, "prompt", row["prompt"])
        _show_text(console, "answer" if row["prompt"] else "text", row["answer"])
        _show_text(console, "model", row.get("model_answer", ""))


def _show_text(console: Console, name: str, text: str) -> None:
    """Print a text on one line, cut to the width of the terminal."""
    if text:
        line = plain(" ".join(text.split()))
        console.print(f"    [dim]{name:<{INDENT - 4}}[/]{line}", no_wrap=True, overflow="ellipsis")
