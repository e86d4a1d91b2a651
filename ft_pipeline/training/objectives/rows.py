"""The result of preparing an objective's tables: rows that are made in batches, their checks, and rows left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.training.tokens.token_audit import Row

BATCH_ROWS = 1024
"""Conversations, pairs or blocks in memory at a time: enough to keep the tokenizer's threads busy, few enough to report
progress."""


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
    """Rows near a held-out row: {file, row, code, copy_of}."""
    are_pairs: bool = False
    """Whether there are two sources: the preferred and the rejected answers of the same pairs, in the same order."""
