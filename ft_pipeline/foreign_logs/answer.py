"""The answer of `ft compare --from`: as a document, and in sections for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ft_pipeline.cli.command import Answer
from ft_pipeline.cli.display_sections import show_section
from ft_pipeline.decide.comparison import MIN_CLUSTERS
from ft_pipeline.foreign_logs.compare import ERROR, compare
from ft_pipeline.foreign_logs.looks import Looks, share_of
from ft_pipeline.foreign_logs.readers import read_log
from ft_pipeline.foreign_logs.scores import ModelScores
from ft_pipeline.page import Cell, Grid, Heading, Section


def answer_of(logs: Sequence[str], metric: str | None, looks: Path | None = None) -> Answer:
    """Compare logs. Each is a path, or NAME=PATH of a log with one model. UserError if they cannot be compared.

    looks: the file that counts comparisons on the same items.
    """
    scores = [found for log in logs for found in _read(log)]
    document = compare(scores, metric) if looks is None else _counted(scores, metric, Looks(looks))

    def show(console: Console, document: Mapping[str, Any]) -> None:
        for section in sections(document):
            show_section(console, section)
            console.print()

    return Answer(document, show)


def _counted(scores: Sequence[ModelScores], metric: str | None, looks: Looks) -> dict[str, Any]:
    """Compare with the share of the rate of errors that this look has, and count the look."""
    compared = [metric, sorted(([found.model, found.values] for found in scores), key=lambda pair: str(pair[0]))]
    number = looks.number_of(compared)
    document = compare(scores, metric, ERROR * share_of(number))
    looks.record(number, compared, {"metric": document["metric"], "models": [found.model for found in scores]})
    return {**document, "look": number}


def _read(log: str) -> list[ModelScores]:
    name, separator, path = log.partition("=")
    if not separator or Path(log).exists():
        return read_log(Path(log))
    found = read_log(Path(path))
    if len(found) == 1:
        found[0].model = name
    else:
        for scores in found:
            scores.model = f"{name}/{scores.model}"
    return found


def sections(document: Mapping[str, Any]) -> list[Section]:
    """Return the verdict with the scores, and the leads."""
    return [_of_scores(document), _of_leads(document)]


def _of_scores(document: Mapping[str, Any]) -> Section:
    direction = "lower" if document["lower_is_better"] else "higher"
    title = f"{document['metric']} ({direction} is better)"
    headings = [Heading("model", is_number=False), Heading(title, is_main=True)]
    cells = [[row["model"], _cell(row)] for row in document["rows"]]
    missing = document["left_out"].items()
    left_out = [f"{count:,} items have no score of {model}, and are left out." for model, count in missing]
    return Section(verdict(document), Grid(headings, cells), [*left_out, *document["differences"]])


def verdict(document: Mapping[str, Any]) -> str:
    """Return what the logs show, as sentences."""
    items, units, rows = document["items"], document["units"], document["rows"]
    asked = f"{items:,} items" if units == items else f"{items:,} items in {units:,} {document['units_are']}"
    if units < MIN_CLUSTERS:
        return f"Not decided: {asked} are too few to tell. Log at least {MIN_CLUSTERS} that differ."
    if document["best"] is not None:
        others = "the other" if len(rows) == 2 else f"each of the other {len(rows) - 1}"
        return f"Use {document['best']}: it is shown to be better than {others}, on {asked}."
    named = " and ".join(filter(None, [", ".join(document["candidates"][:-1]), *document["candidates"][-1:]]))
    return f"Not decided between {named}, on {asked}.{_needed(document)}"


def _needed(document: Mapping[str, Any]) -> str:
    """Return how many units would decide between the best two, as a further sentence; empty if that is unknown."""
    pair = set(document["candidates"][:2])
    lead = next((lead for lead in document["leads"] if {lead["model"], lead["rival"]} == pair), None)
    if lead is None or lead["needed_units"] is None or lead["verdict"] == "shown":
        return ""
    number = max(lead["needed_units"], document["units"] + 1)
    wanted = f"some {number:,} {document['units_are']}"
    return f" If the lead of {lead['model']} stays as large, {wanted} would show it in four of five cases."


def _of_leads(document: Mapping[str, Any]) -> Section:
    headings = [Heading("lead", is_number=False), Heading("by", is_main=True), Heading("", is_number=False)]
    first, count = document["rows"][0]["model"], len(document["leads"])
    words = {"shown": "shown", "open": "cannot be told"}
    of_first = [lead for lead in document["leads"] if lead["model"] == first]
    cells: list[list[Cell | str]] = [
        [f"{first} over {lead['rival']}", _cell(lead), words[lead["verdict"]]] for lead in of_first
    ]
    together = f"the intervals of all {count} pairs of models hold together" if count > 1 else "95 % interval"
    if "look" in document:
        together = f"the intervals hold together with those of all looks; this is number {document['look']}"
    title = f"Leads on the same items, of which those that are alike count once; {together}."
    return Section(title, Grid(headings, cells))


def _cell(entry: Mapping[str, Any]) -> Cell:
    value, low, high = entry["value"], entry["low"], entry["high"]
    return Cell(f"{value:.4g}", None if low is None else (f"{low:.4g}", f"{high:.4g}"))
