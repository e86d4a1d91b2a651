"""The answers to probes that changed, for the report."""

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.evaluation.comparison.probe_outcomes import Rule, describe_outcome, is_wanted
from ft_pipeline.evaluation.scoring.probe_files import PROBES_FILE
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

SHOWN = 3
"""Answers that are shown of each probe file, at most."""
Answers = Mapping[str, str]
"""The answers to a probe file, by item."""


def base_check_values(
    store: ArtifactStore, artifact: Artifact, comparison: Comparison, chosen: str | None
) -> dict[str, Any]:
    """Return the answers that changed in one row, for the template: the chosen one if it was tested, else the best
    row that was.

    artifact: of the comparison.
    """
    tested = [row for row in comparison.rows if comparison.about(row, "probes", "task")]
    row = next((row for row in tested if row.name == chosen), tested[0] if tested else None)
    rules: Mapping[str, Rule] = artifact.spec["config"].get("probes", {})
    return {
        "flipped_row": row.name if row else "",
        "flipped": [
            entry
            for check in (comparison.about(row, "probes") if row else ())
            if row and check.rival
            for entry in _flipped(store, artifact, comparison, row, check, rules[check.measure])
        ],
    }


def _flipped(
    store: ArtifactStore, artifact: Artifact, comparison: Comparison, row: Row, check: Claim, rule: Rule
) -> list[dict[str, Any]]:
    """Return the first answers that are wanted of only one of the two models: first those that the row has lost."""
    base = comparison.row(check.rival)
    if base is None:
        return []
    queries, before = _answers(store, artifact, base, check.measure)
    _, after = _answers(store, artifact, row, check.measure)
    changes = {item: is_wanted(after[item], rule) - is_wanted(before[item], rule) for item in sorted(before)}
    changed = sorted((item for item in changes if changes[item]), key=lambda item: changes[item])
    return [
        {
            "probes": check.measure,
            "query": queries[item],
            "is_lost": changes[item] < 0,
            "answers": [
                {"name": name, "text": answers[item], "outcome": describe_outcome(answers[item], rule)}
                for name, answers in ((base.name, before), (row.name, after))
            ],
        }
        for item in changed[:SHOWN]
    ]


def _answers(store: ArtifactStore, artifact: Artifact, row: Row, probes: str) -> tuple[Answers, Answers]:
    """Return (questions, answers) of a row by item."""
    scores = store.require(*artifact.inputs[row.source])
    filters = [("name", "=", row.source_row), ("probe", "=", probes)]
    records = pq.read_table(scores.path / PROBES_FILE, filters=filters).to_pylist()
    queries, answers = ({record["item"]: record[column] for record in records} for column in ("query", "answer"))
    return queries, answers
