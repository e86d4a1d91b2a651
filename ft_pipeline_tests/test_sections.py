"""A section is told alike in the terminal, in Markdown, in HTML and in the UI."""

import io
import re
from pathlib import Path

import dagster as dg
import pytest
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from rich.console import Console

from ft_pipeline.cli.display_sections import show_section
from ft_pipeline.execution.metadata import metadata_of_page
from ft_pipeline.page import Cell, Grid, Heading, Section
from ft_pipeline.page_markdown import markdown_of
from ft_pipeline.release.report import report

GRID = Grid(
    [Heading(""), Heading("Exact match (higher is better)", "exact", is_main=True), Heading("training", short=None)],
    [["a|b", Cell("0.500", ("0.400", "0.600"), is_best=True), "2 min"], ["<i>", Cell("0.250"), ""]],
)
SECTION = Section("Scores, best first.", GRID, ["Not compared: <old>."])


def in_terminal(section: Section) -> str:
    console = Console(file=io.StringIO(), record=True, width=120)
    show_section(console, section)
    return console.export_text()


def in_html(section: Section) -> str:
    environment = Environment(loader=FileSystemLoader(Path(report.__file__).parent), autoescape=True)
    source = '{% from "macros.html.jinja" import body %}{{ body(section, "Scores") }}'
    return environment.from_string(source).render(section=section)


def test_markdown_has_every_column_and_escapes_what_it_would_read() -> None:
    assert markdown_of([SECTION]) == (
        "Scores, best first.\n\n"
        "|  | Exact match (higher is better) | training |\n"
        "| ---: | ---: | ---: |\n"
        "| a\\|b | 0.500 [0.400, 0.600] | 2 min |\n"
        "| &lt;i> | 0.250 |  |\n\n"
        "Not compared: &lt;old>."
    )


def test_a_terminal_has_short_titles_and_only_the_columns_with_room() -> None:
    text = in_terminal(SECTION)
    assert re.search(r"a\|b +0\.500 0\.400–0\.600", text) and "exact" in text
    assert "2 min" not in text and "Not compared: <old>." in text


def test_html_marks_the_best_value_and_escapes_all() -> None:
    html = in_html(SECTION)
    assert '<td class="number best">0.500<small>0.400 to 0.600</small></td>' in html
    assert "&lt;i&gt;" in html and "<i>" not in html and "<li>Not compared: &lt;old&gt;.</li>" in html


def test_the_report_shows_the_fields_of_a_row_that_has_all_right() -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(report.__file__).parent), autoescape=True, undefined=ChainableUndefined
    )
    source = '{% from "macros.html.jinja" import heading, grid_table, body, picture %}{% include "scores.html.jinja" %}'
    html = environment.from_string(source).render(contents=[], fields=[SECTION], worst=[], confusion_picture=None)
    assert "What is wrong most often" in html and "0.500<small>" in html


def test_the_ui_has_a_grid_as_a_table() -> None:
    shown = metadata_of_page({"scores": GRID})["scores"]
    assert isinstance(shown, dg.TableMetadataValue)
    assert shown.records[0].data["Exact match (higher is better)"] == "0.500 [0.400, 0.600]"


@pytest.mark.parametrize("empty", [Section(), Section("Title."), Section("Title.", Grid([Heading("")], []))])
def test_nothing_is_shown_of_an_empty_section(empty: Section) -> None:
    assert not empty and markdown_of([empty]) == "" and in_terminal(empty) == ""


def test_what_a_section_is_in_short_stands_in_a_terminal_for_all_of_it() -> None:
    section = Section("Title.", GRID, ["Long."], in_short=["Short."])
    assert in_terminal(section) == "Short.\n" and "Short." not in markdown_of([section])
