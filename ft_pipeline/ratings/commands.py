"""`ft rate`: people compare the answers of two models, blind."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import FAILED, stderr
from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import plain, say, say_line
from ft_pipeline.decide.comparison import CHAMPION, Comparison, Row
from ft_pipeline.decide.sentences import describe_lead
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.ratings.csv_files import read_verdicts, write_pairs
from ft_pipeline.ratings.pairs import CHOICES, Match, open_match, present_comparison
from ft_pipeline.ratings.raters import DEFAULT_ALIAS, require_alias
from ft_pipeline.ratings.rating_ledger import Rating, newest, read_ratings
from ft_pipeline.ratings.results import next_step
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_document

TUNED_ROWS = 2
"""Number of tuned rows that are listed: that of the verdict, then those that only ratings decide about, then the best
ones."""


@command
def rate(
    project: Project,
    candidate: Annotated[
        str | None, typer.Argument(help="A row of `ft compare`. Without names: lists pairs that are worth rating.")
    ] = None,
    rival: Annotated[str | None, typer.Argument(help="The row that it is compared with.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Number of pairs of answers for this rater.")] = 60,
    rater: Annotated[
        str, typer.Option("--rater", help="A made-up name for the rater. Each rater needs another one.")
    ] = DEFAULT_ALIAS,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the pairs to this new file, to be rated in a spreadsheet.")
    ] = None,
    read: Annotated[Path | None, typer.Option("--read", help="Read the verdicts in this file of --csv.")] = None,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port on 127.0.0.1. 0: a free one.")] = 0,
) -> Answer:
    """Compare the answers of two models, blind, on a page on 127.0.0.1 or in a spreadsheet.

    Example: ft rate qlora/merged few_shot --rater r2
    """
    if candidate is None:
        return _list_pairs(project)
    if rival is None:
        raise UserError("One name is missing. Name two rows: ft rate CANDIDATE RIVAL")
    if csv is not None and read is not None:
        raise UserError("--csv and --read exclude each other. Write the pairs first, then read the verdicts.")
    alias = require_alias(rater)
    match = open_match(project.store, candidate, rival)
    if csv is not None:
        written = write_pairs(match, alias, number, csv)
        return Answer(
            {"written": written, "file": str(csv), "rater": alias},
            lambda console, _: show_written(console, match, alias, written, csv),
        )
    found = read_verdicts(match, alias, read) if read is not None else None
    if read is None and not _is_complete(match, alias, number):
        _serve(match, alias, number, port)
    document = _document(match, alias, number) | ({"read": vars(found)} if found else {})
    return Answer(document, show_state, FAILED if found is not None and found.faults else 0)


def _serve(match: Match, alias: str, number: int, port: int) -> None:
    """Show the page until the rater has seen the result, or until Ctrl-C."""
    from ft_pipeline.execution.local_page import LocalPage
    from ft_pipeline.ratings.page import RatingPage

    served = LocalPage(port)
    page = RatingPage(match, alias, number, served.stop)

    def announce(url: str) -> None:
        say(stderr, f"Rate at {url} as {plain(alias)}. Each verdict is kept at once. Press Ctrl-C to stop.")

    try:
        served.serve(page.app(), announce)
    except KeyboardInterrupt:
        say(stderr, "ft: stopped. All verdicts are kept.")


def _is_complete(match: Match, alias: str, number: int) -> bool:
    done, of = _progress(match, alias, number)
    return done == of


def _progress(match: Match, alias: str, number: int) -> tuple[int, int]:
    """Return how many pairs the rater has rated, and of how many."""
    ratings = match.ratings()
    own = {rating.item for rating in ratings if rating.rater == alias}
    pairs = match.pairs_for(alias, number, ratings)
    return sum(pair.item in own for pair in pairs), len(pairs)


def _document(match: Match, alias: str, number: int) -> dict[str, Any]:
    """Return how far the rater is. The result is part of it only after the last pair, since until then it would say
    something about the pairs that are left."""
    done, of = _progress(match, alias, number)
    document: dict[str, Any] = {"rater": alias, "rated": done, "of": of, "identical": match.identical, "result": None}
    if done == of:
        result = match.result()
        document |= {"result": asdict(result), "lines": result.lines(), "next": next_step(result, len(match.pairs))}
    return document


def _list_pairs(project: Project) -> Answer:
    """Return which pairs are worth rating."""
    _, comparison = present_comparison(ArtifactStore(project.store))
    decided = current_document(project.store, "decision")
    chosen = decided["verdict"]["row"] if decided else None
    pairs = pairs_worth_rating(comparison, newest(read_ratings(project.store)), chosen)
    return Answer({"pairs": pairs}, lambda console, _: show_pairs(console, pairs))


def pairs_worth_rating(
    comparison: Comparison, ratings: Sequence[Rating], chosen: str | None = None
) -> list[dict[str, object]]:
    """Return candidate, rival, the lead by the metric that decides, and how many pairs were rated by somebody.

    Pairs of which one is clearly better come last: there, ratings change least. chosen: the row of the verdict.
    """
    tuned = [row for row in comparison.tuned() if comparison.usable(row)]
    tuned = sorted(tuned, key=lambda row: (row.name != chosen, not _is_undecided(comparison, row)))[:TUNED_ROWS]
    found = {(row.name, rival.name): (row, rival) for row in tuned for rival in _rivals(comparison, row)}
    listed = [_describe(comparison, row, rival, ratings) for row, rival in found.values()]
    return sorted(listed, key=lambda pair: bool(pair["clear"]))


def _is_undecided(comparison: Comparison, row: Row) -> bool:
    """Whether nothing that was measured decides between a row and some rival."""
    return any(comparison.deciding(row, rival).because == "no_evidence" for rival in _rivals(comparison, row))


def _rivals(comparison: Comparison, row: Row) -> list[Row]:
    rivals = [comparison.incumbent, comparison.row(CHAMPION), comparison.best_bar(row)]
    return [rival for rival in rivals if rival is not None and rival.name != row.name]


def _describe(comparison: Comparison, row: Row, rival: Row, ratings: Sequence[Rating]) -> dict[str, object]:
    label, lead = comparison.metric().label, comparison.ahead(row, rival)
    names = {row.name, rival.name}
    return {
        "candidate": row.name,
        "rival": rival.name,
        "rated": len({rating.item for rating in ratings if {rating.candidate, rating.rival} == names}),
        "clear": comparison.better(row, rival) or comparison.better(rival, row),
        "lead": f"{lead.row} leads by {describe_lead(lead)} ({label})" if lead else f"not comparable by {label}",
    }


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
