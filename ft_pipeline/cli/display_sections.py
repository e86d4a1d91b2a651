"""Sections in a terminal: a table that fits, and what has no room in one as sentences."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.display_tables import new_table, print_columns
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.page import Cell, Grid, Heading, Section

WARNINGS = ("Small: ", "Not compared: ")
"""What a sentence begins with that a reader must not miss."""


def show_section(console: Console, section: Section) -> None:
    """Print a section: what it is in short, or its title, its table and its sentences."""
    if section.in_short is not None or not section:
        _say_all(console, section.in_short or ())
        return
    if section.title:
        say(console, plain(section.title))
    if section.grid:
        print_columns(console, grid_table(section.grid))
    _say_all(console, section.sentences)


def grid_table(grid: Grid) -> Table:
    """Return the columns of a grid for which a terminal has room."""
    shown = [number for number, heading in enumerate(grid.headings) if heading.short is not None]
    headings = [grid.headings[number] for number in shown]
    titles = [heading.short or heading.title for heading in headings]
    right = {title for title, heading in zip(titles, headings, strict=True) if heading.is_number}
    table = new_table(*map(plain, titles), right={plain(title) for title in right})
    for cells in grid.cells:
        table.add_row(*(_cell(cells[number], grid.headings[number]) for number in shown))
    return table


def _cell(cell: Cell, heading: Heading) -> str:
    interval = f" [dim]{cell.ends[0]}–{cell.ends[1]}[/]" if cell.ends and heading.is_main else ""
    return plain(cell.short or cell.text) + interval


def _say_all(console: Console, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        first = next((warning for warning in WARNINGS if sentence.startswith(warning)), "")
        say(console, (f"[yellow]{first}[/]" if first else "") + plain(sentence.removeprefix(first)))
