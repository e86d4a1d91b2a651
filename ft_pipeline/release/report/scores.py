"""The scores, costs, leads and sweeps of the report, and the prompts that were searched."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.findings.costs import describe_break_even
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.decide.plots import learning_curve_picture, score_picture, slice_picture
from ft_pipeline.decide.sections import score_cell, sections
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.prompt_search.tries import TRIES_FILE, read_tries
from ft_pipeline.evaluation.prompt_search.tries import describe as describe_search
from ft_pipeline.page import Cell, Grid, Heading
from ft_pipeline.small_plots import tries_plot
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


def score_values(comparison: Comparison, describe: Callable[[Row], str], chosen: Row | None) -> dict[str, Any]:
    """Return the values of the templates scores.html.jinja and training.html.jinja.

    describe: what a row is, as part of a sentence. chosen: the row of the verdict, whose slices are shown.
    """
    curve, slices = learning_curve_picture(comparison), slice_picture(comparison, chosen)
    return {
        "sections": sections(comparison, chosen),
        "primary": comparison.metric().title,
        "metrics": list(shown_metrics(comparison).values()),
        "descriptions": {row.name: describe(row) for row in comparison.rows},
        "break_even": [describe_break_even(entry) for entry in comparison.break_even],
        "pairs": _paired_differences(comparison),
        "picture_of_scores": data_uri(score_picture(comparison)),
        "learning_curve": data_uri(curve) if curve else None,
        "slice_picture": data_uri(slices) if slices else None,
    }


def _paired_differences(comparison: Comparison) -> Grid:
    """Return the paired differences in the primary metric."""
    headings = [Heading(title, is_number=False) for title in ("row", "leads")]
    headings += [Heading("by"), Heading("result", is_number=False)]
    clear = {True: "clear", False: "may be chance"}
    rows: list[list[Cell | str]] = [
        [lead.row, lead.rival, score_cell(Score(lead.value, lead.low, lead.high)), clear[lead.verdict == "shown"]]
        for lead in comparison.of_kind("lead")
        if lead.measure == comparison.primary and lead.value is not None
    ]
    return Grid(headings, rows)


def data_uri(png: bytes) -> str:
    """Return a picture as the address of an <img>."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def searches(store: ArtifactStore, comparison: Artifact) -> list[dict[str, str]]:
    """Return each search of a prompt that scores of a comparison rest on.

    `of`: the scores. `sentence`. `picture`: a data URI.
    """
    found: dict[str, dict[str, str]] = {}
    for name, reference in comparison.inputs.items():
        search = store.require(*reference).inputs.get("searched_prompt")
        if search is not None and search[1] not in found:
            found[search[1]] = _searched(name, store.require(*search))
    return [values for values in found.values() if values]


def _searched(name: str, search: Artifact) -> dict[str, str]:
    summary = search.summary
    if not summary["tries"]:
        return {}
    plot = tries_plot([each.measured.score for each in read_tries(search.path / TRIES_FILE)], summary["metric"])
    return {"of": name, "sentence": describe_search(summary), "picture": _address(plot)}


def _address(picture: str) -> str:
    """Return the address of a picture in Markdown: a data URI."""
    return picture.partition("](<")[2].removesuffix(">)")


def further_section(advice: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a feature's step adds: id, title, sentences, picture (a data URI, or empty)."""
    return {**advice, "id": advice["title"].lower().replace(" ", "-"), "picture": _address(advice["picture"])}
