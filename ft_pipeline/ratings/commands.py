"""`ft rate`: people compare the answers of two models, blind."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import FAILED, stderr
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.ratings import display
from ft_pipeline.ratings.csv_files import read_verdicts, write_pairs
from ft_pipeline.ratings.pairs import Match, open_match, present_comparison
from ft_pipeline.ratings.raters import DEFAULT_ALIAS, require_alias
from ft_pipeline.ratings.rating_ledger import newest, read_ratings
from ft_pipeline.ratings.results import next_step
from ft_pipeline.ratings.worth_rating import pairs_worth_rating
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_document


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
            lambda console, _: display.show_written(console, match, alias, written, csv),
        )
    found = read_verdicts(match, alias, read) if read is not None else None
    if read is None and not _is_complete(match, alias, number):
        _serve(match, alias, number, port)
    document = _document(match, alias, number) | ({"read": vars(found)} if found else {})
    return Answer(document, display.show_state, FAILED if found is not None and found.faults else 0)


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
    return Answer({"pairs": pairs}, lambda console, _: display.show_pairs(console, pairs))
