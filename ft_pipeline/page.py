"""What people see of an artifact: a page, in reading order. execution/metadata.py writes it for Dagster's UI."""

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


Page = Mapping[str, Any]
"""Name → block, or a plain fact. None is not shown."""


def beginning_with(columns: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return the descriptions of columns in another order: a page shows the first ones."""
    return {name: columns[name] for name in names} | {**columns}
