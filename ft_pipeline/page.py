"""What people see of an artifact: a page, in reading order. execution/metadata.py writes it for Dagster's UI."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """Sentences, in Markdown."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A picture of small_plots.py, in Markdown."""

    markdown: str


@dataclass(frozen=True)
class Table:
    """Rows, whose columns are those of the first one."""

    rows: Sequence[Mapping[str, Any]]
    about: Mapping[str, str] | None = None
    """Column → what it is."""


Page = Mapping[str, Any]
"""Name → block, or a plain fact. None is not shown."""
