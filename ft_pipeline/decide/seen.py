"""Whether people see the test results in scores, before and after a comparison has read these."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.sources.screens import MIN_SCREENED, conversations_of


def records_of_validation(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the records of the validation rows by name of the model. Empty for scores without them.

    folder: that of the scores.
    """
    file, found = folder / "validation.parquet", defaultdict(list)
    for record in pq.read_table(file).to_pylist() if file.is_file() else ():
        found[record["name"]].append(record)
    return found


def may_be_screened_out(folder: Path) -> bool:
    """Return whether a comparison may drop a tuned model, so that nobody sees its test scores before. folder: that of
    its scores."""
    return any(conversations_of(records) >= MIN_SCREENED for records in records_of_validation(folder).values())


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
