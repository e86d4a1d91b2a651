"""Output of `ft rate` in a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import plain, say, say_line
from ft_pipeline.ratings.pairs import CHOICES, Match


def show_pairs(console: Console, pairs: Sequence[Mapping[str, Any]]) -> None:
    """Print which pairs of models are worth rating."""
    if not pairs:
        say(console, "No pair is worth rating yet: no tuned model that can be used was compared. Run `ft run`.")
        return
    table = new_table("candidate", "rival", "rated", "by the metric that decides", one_line={"candidate", "rival"})
    for pair in pairs:
        table.add_row(plain(pair["candidate"]), plain(pair["rival"]), str(pair["rated"]), plain(pair["lead"]))
    console.print(table)
    first = pairs[0]
    say_line(console, f"Rate with: ft rate {plain(first['candidate'])} {plain(first['rival'])}")


def show_written(console: Console, match: Match, alias: str, written: int, path: Path) -> None:
    """Print where the pairs are, and what to do with them."""
    back = f"ft rate {match.candidate} {match.rival} --rater {alias} --read {path}"
    say(console, f"Wrote {written} pairs to {plain(str(path))}. They contain texts of test rows.")
    say(console, f"Write {CHOICES} into the column verdict. Then run:")
    say_line(console, f"  {plain(back)}")


def show_state(console: Console, document: Mapping[str, Any]) -> None:
    """Print what was read, how far the rater is, and the result after the last pair."""
    if read := document.get("read"):
        say(
            console,
            f"{read['recorded']} verdicts recorded, {read['unchanged']} recorded before, {read['empty']} rows without "
            "a verdict.",
        )
        for line in (*read["notes"], *read["faults"]):
            say(console, plain(line))
    if document["result"] is None:
        say(
            console,
            f"{plain(document['rater'])} has rated {document['rated']} of {document['of']} pairs. Run the same command "
            "to go on.",
        )
        return
    lines = [*document["lines"]]
    if document["identical"]:
        lines.append(f"{document['identical']} more test items have the same answer twice. They are ties.")
    for line in (*lines, document["next"]):
        say(console, plain(line))
