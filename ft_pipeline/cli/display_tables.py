"""Tables that fit: columns of numbers one below the other, long rows of a query as records."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ft_pipeline.cli.display_text import plain, say

GAP = 2
"""Columns of the terminal between two columns of a table."""
NARROWEST = 18
"""Letters of a line that are enough for a text, if its column is narrowed."""


def new_table(*titles: str, right: Collection[str] = (), one_line: Collection[str] = ()) -> Table:
    """Return an empty table. Columns in `right` and `one_line` stay on one line; the others are wrapped."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    for title in titles:
        kept = title in one_line or title in right
        table.add_column(title, justify="right" if title in right else "left", overflow="fold", no_wrap=kept)
    return table


def print_columns(console: Console, table: Table) -> None:
    """Print a table of numbers. If it is too wide, its columns follow in further tables, each with the first one."""
    for number, columns in enumerate(_blocks(table, console.width)):
        if number:
            console.print()
        console.print(_part(table, columns))


def print_texts(console: Console, table: Table) -> None:
    """Print a table of texts. If its columns would be too narrow, each row is printed as a record."""
    least = [_width(column) if column.no_wrap else min(_width(column), NARROWEST) for column in table.columns]
    if sum(least) + GAP * (len(least) - 1) <= console.width or len(least) == 1:
        console.print(table)
        return
    for number, cells in enumerate(zip(*(column.cells for column in table.columns), strict=True), 1):
        say(console, f"[dim]{number}.[/]")
        for column, cell in zip(table.columns, cells, strict=True):
            say(console, f"   [bold]{column.header}[/]: {cell}")


def print_rows(console: Console, titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print the rows of a query."""
    table = new_table(*map(plain, titles))
    for row in rows:
        table.add_row(*(plain("" if value is None else str(value)) for value in row))
    print_texts(console, table)


def _width(column: Column) -> int:
    """Return the letters of the widest cell of a column."""
    return max(Text.from_markup(str(cell)).cell_len for cell in (column.header, *column.cells))


def _blocks(table: Table, width: int) -> Iterator[list[Column]]:
    """Divide the columns into as few tables as fit, each with the first column."""
    first, *others = table.columns
    block, used = [first], _width(first)
    for column in others:
        needed = GAP + _width(column)
        if len(block) > 1 and used + needed > width:
            yield block
            block, used = [first], _width(first)
        block.append(column)
        used += needed
    yield block


def _part(table: Table, columns: Sequence[Column]) -> Table:
    """Return a table with some of the columns."""
    part = new_table()
    for column in columns:
        part.add_column(column.header, justify=column.justify, overflow="fold", no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*cells)
    return part
