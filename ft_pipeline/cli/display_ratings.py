"""Output of `ft rate` in a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.display import plain
from ft_pipeline.ratings.pairs import CHOICES, Match


def show_pairs(console: Console, pairs: Sequence[Mapping[str, Any]]) -> None:
    """Print which pairs of models are worth rating."""
    if not pairs:
        console.print("No pair is worth rating yet: no tuned model that can be used was compared. Run `ft run`.")
        return
    table = Table("candidate", "rival", "pairs rated", "by the metric that decides", box=None, header_style="bold")
    for pair in pairs:
        table.add_row(plain(pair["candidate"]), plain(pair["rival"]), str(pair["rated"]), plain(pair["lead"]))
    console.print(table)
    first = pairs[0]
    console.print(f"Rate with: ft rate {plain(first['candidate'])} {plain(first['rival'])}", soft_wrap=True)


def show_written(console: Console, match: Match, alias: str, written: int, path: Path) -> None:
    """Print where the pairs are, and what to do with them."""
    back = f"ft rate {match.candidate} {match.rival} --rater {alias} --read {path}"
    console.print(f"Wrote {written} pairs to {plain(str(path))}. They contain texts of test rows.", soft_wrap=True)
    console.print(f"Write {CHOICES} into the column verdict. Then run: {plain(back)}", soft_wrap=True)


def show_state(console: Console, document: Mapping[str, Any]) -> None:
    """Print what was read, how far the rater is, and the result after the last pair."""
    if read := document.get("read"):
        console.print(
            f"{read['recorded']} verdicts recorded, {read['unchanged']} recorded before, {read['empty']} rows without "
            "a verdict."
        )
        for line in (*read["notes"], *read["faults"]):
            console.print(plain(line), soft_wrap=True)
    if document["result"] is None:
        console.print(
            f"{plain(document['rater'])} has rated {document['rated']} of {document['of']} pairs. Run the same command "
            "to go on.",
            soft_wrap=True,
        )
        return
    lines = [*document["lines"]]
    if document["identical"]:
        lines.append(f"{document['identical']} more test items have the same answer twice. They are ties.")
    for line in (*lines, document["next"]):
        console.print(plain(line), soft_wrap=True)
