"""Whether people see the test results in scores, before and after a comparison has read these."""

from collections.abc import Iterable
from pathlib import Path

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.sources.screens import may_be_screened_out


def are_tests_seen(folder: Path, compared: Iterable[tuple[Comparison, str]], name: str) -> bool:
    """Return whether people see the test results of a tuned model: nothing screens it, or it was compared and leads on
    the validation rows.

    folder: that of its scores. compared: comparisons that read these, each with the input that they are. name: that of
    its row in its scores.
    """
    if not may_be_screened_out(folder):
        return True
    rows = [
        (comparison, row)
        for comparison, source in compared
        for row in comparison.rows
        if (row.source, row.source_row) == (source, name)
    ]
    return bool(rows) and not any(comparison.why_screened_out(row) for comparison, row in rows)
