"""The rule of forgetting: how much general accuracy a tuned model loses against its base model."""

from ft_pipeline.evaluation.comparison.records import GENERAL_ACCURACY, Comparison, ComparisonRow


def base_of(comparison: Comparison, row: ComparisonRow) -> ComparisonRow | None:
    """Return the base model that a row's general accuracy is compared with; None if none was measured.

    It is the base model that was scored for the same experiment. Experiments with the same base model share its row,
    and the comparison does not record which ones do. For an experiment without its own row, it is therefore the base
    model with the best accuracy.
    """
    bases = [base for base in comparison.rows if base.kind == "base" and base.accuracy is not None]
    sources = (row.source, f"{row.experiment}/prompt_baseline")
    of_experiment = [base for base in bases if base.source in sources]
    return max(of_experiment or bases, key=lambda base: base.accuracy or 0.0, default=None)


def accuracy_drop(comparison: Comparison, row: ComparisonRow) -> float | None:
    """Return how much general accuracy the row loses against its base model; None if that was not measured."""
    base = base_of(comparison, row)
    if base is None or base.accuracy is None or row.accuracy is None:
        return None
    return base.accuracy - row.accuracy


def forgets(comparison: Comparison, row: ComparisonRow, margin: float) -> bool:
    """Return whether general accuracy drops by more than the margin.

    A drop whose interval includes zero does not count; a drop without an interval does.
    """
    base, drop = base_of(comparison, row), accuracy_drop(comparison, row)
    if base is None or drop is None or drop <= margin:
        return False
    lead_of_base = comparison.difference(base, row, GENERAL_ACCURACY)
    return lead_of_base is None or lead_of_base.is_clear
