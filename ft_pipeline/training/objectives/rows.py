"""The result of preparing an objective's tables: rows that are made in batches, their checks, and rows left out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ft_pipeline.training.tokens.token_audit import Row

BATCH_ROWS = 1024
"""Conversations, pairs or blocks in memory at a time: enough to keep the tokenizer's threads busy, few enough to report
progress."""


@dataclass(frozen=True)
class TableRows:
    """Some rows of a table, in the order in which they train. They become Python objects only when they are read."""

    table: pa.Table
    positions: np.ndarray
    """int64: the positions of the rows in `table`. One may occur several times."""

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, begin: int, end: int) -> list[dict[str, Any]]:
        """Return the rows in a range of `positions`."""
        positions = self.positions[begin:end]
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1) if len(positions) else []
        return [row for run in runs for row in self.table.slice(run[0], len(run)).to_pylist()]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for begin in range(0, len(self), BATCH_ROWS):
            yield from self.read(begin, begin + BATCH_ROWS)


@dataclass(frozen=True)
class RowSource:
    """Rows of one kind. They are made in batches, each when it is needed, so that never all of them are in memory."""

    items: int
    """Number of conversations, pairs or blocks."""
    make: Callable[[slice], list[Row]]
    """Returns the rows of some items. It returns the same rows each time."""
    check: Callable[[Sequence[Row]], None]
    """Adds a batch of rows to the checks of their kind."""

    def batch(self, number: int) -> list[Row]:
        """Return the rows of a batch, by its number from 0."""
        return self.make(slice(number * BATCH_ROWS, (number + 1) * BATCH_ROWS))

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-self.items // BATCH_ROWS)


@dataclass(frozen=True)
class PreparedRows:
    """The rows of one objective, with their checks."""

    sources: Sequence[RowSource]
    """They train together, in this order."""
    checks: Callable[[], dict[str, Any]]
    """Returns the checks of these kinds of rows, by name, after all batches were added to them."""
    left_out: Sequence[dict[str, Any]] = ()
    """Rows near a held-out row: {file, row, code, copy_of}. (The audit adds those that are too long.)"""
    are_pairs: bool = False
    """Whether there are two sources: the preferred and the rejected answers of the same pairs, in the same order."""
    extra_columns: Sequence[str] = ()
    """Names of the columns in `Row.extra`."""
