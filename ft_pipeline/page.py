"""What people see: the blocks of a page in reading order, and of a document in sections.

A page of an artifact is shown in Dagster's UI (execution/metadata.py); a section in Markdown (page_markdown.py), in
HTML (release/report/macros.html.jinja), and in the terminal (cli/display_sections.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """Sentences, in Markdown."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences. Those that have no room are shown after a click."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Hidden:
    """A long text in Markdown, or a path, shown after a click."""

    text: str


@dataclass(frozen=True)
class Link:
    """An address on the server of the UI, or anywhere."""

    address: str


REPORT_ADDRESS = "/report"
"""Where the UI of `ft ui` shows the current report."""


@dataclass(frozen=True)
class Picture:
    """A picture of small_plots.py, in Markdown."""

    markdown: str


@dataclass(frozen=True)
class Image:
    """A picture under 100 kB that is shown after a click. An event log stores it."""

    png: bytes
    about: str
    """What the picture shows, for who cannot see it."""


@dataclass(frozen=True)
class Table:
    """Rows, whose columns are those of the first one."""

    rows: Sequence[Mapping[str, Any]]
    about: Mapping[str, str] | None = None
    """Column → what it is. It also sets the order of the columns."""


@dataclass(frozen=True)
class Columns:
    """The schema of a table: (name, type, description) of each column, or a FinishedTable with its constraints."""

    declared: Any


@dataclass(frozen=True)
class Lineage:
    """Column of a table → the (table, column)s that it is made from."""

    sources: Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Heading:
    """The title of a column of a grid. The first column names its rows."""

    title: str
    short: str | None = ""
    """The title in a terminal; empty: the same; None: no room there for the column."""
    is_number: bool = True
    is_main: bool = False
    """Whether a terminal has room for its intervals."""


@dataclass(frozen=True)
class Cell:
    """A value as text, with the ends of its 95 % interval if they are known."""

    text: str
    ends: tuple[str, str] | None = None
    is_best: bool = False
    short: str = ""
    """The text in a terminal; empty: the same."""

    @property
    def in_full(self) -> str:
        """The text, with the interval in brackets."""
        return self.text + (f" [{self.ends[0]}, {self.ends[1]}]" if self.ends else "")


@dataclass(frozen=True)
class Grid:
    """Columns of values, one below the other."""

    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell | str]]

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, with each value as a cell."""
        return [[Cell(cell) if isinstance(cell, str) else cell for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Section:
    """A part of a document: what it is about, its grid, its sentences. What is empty is not shown."""

    title: str = ""
    """A sentence above the grid."""
    grid: Grid | None = None
    sentences: Sequence[str] = ()
    in_short: Sequence[str] | None = None
    """What a terminal shows in place of all this; None: the title, the grid and the sentences."""

    def __bool__(self) -> bool:
        return bool(self.sentences or self.in_short or (self.grid and self.grid.rows))


Page = Mapping[str, Any]
"""Name → block, or a plain fact. None is not shown."""


def beginning_with(columns: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return the descriptions of columns in another order: a page shows the first ones."""
    return {name: columns[name] for name in names} | {**columns}
