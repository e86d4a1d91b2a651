"""Whether people see the test results in scores, before and after a comparison has read these."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.sources.screens import MIN_SCREENED


def nats_on_validation(folder: Path) -> dict[str, tuple[float, int]]:
    """Return, by name of the model, its nats per byte of the validation rows and the number of these conversations.
    Empty for scores without them. folder: that of the scores."""
    file = folder / "validation.parquet"
    records = pq.read_table(file).to_pylist() if file.is_file() else []
    found = {}
    for name in dict.fromkeys(record["name"] for record in records):
        own = [record for record in records if record["name"] == name and record["content_nats"] is not None]
        if own:
            nats, size = (sum(record[key] for record in own) for key in ("content_nats", "content_bytes"))
            found[name] = nats / size, len({record["group"] for record in own})
    return found


def may_be_screened_out(folder: Path) -> bool:
    """Return whether a comparison may drop a tuned model, so that nobody sees its test scores before. folder: that of
    its scores."""
    return any(count >= MIN_SCREENED for _, count in nats_on_validation(folder).values())


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
