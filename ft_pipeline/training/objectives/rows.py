"""The result of preparing an objective's tables: rows, their checks, and the rows that were left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.training.tokens.token_audit import Row


@dataclass(frozen=True)
class PreparedRows:
    """The rows of one objective, with their checks."""

    rows: Sequence[Row]
    checks: dict[str, Any]
    """The checks of this kind of rows, by name (token_audit.build_check)."""
    left_out: Sequence[dict[str, Any]] = ()
    """Rows near a held-out row: {file, row, code, copy_of}."""
    rejected: Sequence[Row] = ()
    """For preference pairs: the rejected answer of each of `rows`, in the same order."""
