"""Leads on the test conversations that arrived after a candidate was designed.

Who looks at the results on test rows, and then combines what seemed to help, designs for these rows. Rows that came
later cannot have been designed for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.evaluation.comparison.estimates import estimate_samples
from ft_pipeline.evaluation.comparison.leads import bounds, values_over
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.store.artifacts import Artifact

ENOUGH_FRESH = 30
"""Fresh test conversations from which on the lead on them alone is judged."""


def fresh_rows(
    test_ids: Sequence[str], entries: Sequence[Mapping[str, Any]], rows: Mapping[str, set[str]], settings_hash: str
) -> set[str]:
    """Return the test conversations that no decision had used when a candidate of these settings first appeared.

    entries: those of the ledger, oldest first. rows: by their digest, the ids of the test conversations of an entry.
    """
    first = next((number for number, entry in enumerate(entries) if settings_hash in entry["contenders"]), len(entries))
    seen: set[str] = set()
    for entry in entries[: first + 1]:
        seen |= rows[entry["rows"]]
    return set(test_ids) - seen


def lead_on(
    comparison_artifact: Artifact, comparison: Comparison, conversations: set[str], row: str, rival: str
) -> Score | None:
    """Return the lead of a row over a rival on these conversations alone, with its 95 % interval; None if unknown."""
    name = comparison.primary
    records = pq.read_table(
        comparison_artifact.path / "samples.parquet", filters=[("name", "in", [row, rival])]
    ).to_pylist()
    samples = {
        model: sorted(
            (
                record
                for record in records
                if record["name"] == model and record.get("question_key", record["group"]) in conversations
            ),
            key=lambda record: record["item"],
        )
        for model in (row, rival)
    }
    if not all(samples.values()):
        return None
    estimates = estimate_samples(samples, {name: comparison.metric()})
    if not all(name in estimates[model] for model in samples):
        return None
    values = values_over(rival, row, name, comparison.metric(), estimates)
    return Score(float(values.mean()), *bounds(values, highest=comparison.metric().highest))
