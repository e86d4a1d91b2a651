"""What people see of a comparison: no test result of a tuned model that does not lead on the validation rows.

Its test scores stay in comparison.json, where decisions read them. documents.py hands out what this returns.
"""

from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison

OF_THE_TEST_ROWS = ("lead", "opinion", "answers", "replaces", "slice", "slice_lead", "recipe", "share")
"""Kinds of claims that tell how good the answers to the test rows are."""


def screened_out(comparison: Comparison) -> dict[str, Claim]:
    """Return Comparison.why_screened_out of each row that has it, by name."""
    found = ((row.name, comparison.why_screened_out(row)) for row in comparison.rows)
    return {name: claim for name, claim in found if claim is not None}


def as_shown(comparison: Comparison) -> Comparison:
    """Return the comparison without the test results of rows that were screened out, which come last.

    They keep what they cost, what was measured on other rows, and two measurements on the test rows that are limits and
    no scores: how many answers have a fault (rails), and what a GGUF file loses against its merged model.
    """
    out = screened_out(comparison)
    if not out:
        return comparison
    rows = [row.model_copy(update={"scores": {}}) if row.name in out else row for row in comparison.rows]
    measured = {comparison.primary, *(name for row in rows for name in row.scores)}
    changes = comparison.changes
    fields = {
        name: [entry for entry in getattr(comparison, name) if entry.row not in out]
        for name in ("seeds", "learning_curves", "kept_prompts", "field_results", "confusions")
    }
    claims = [
        claim
        for claim in comparison.claims
        if claim.kind not in OF_THE_TEST_ROWS or out.keys().isdisjoint((claim.row, claim.rival))
    ]
    return comparison.changed(
        **fields,
        rows=sorted(rows, key=lambda row: row.name in out),
        metrics={name: metric for name, metric in comparison.metrics.items() if name in measured},
        claims=claims,
        break_even=[entry for entry in comparison.break_even if entry.tuned not in out],
        changes=None if changes and not out.keys().isdisjoint((changes.before, changes.after)) else changes,
    )
