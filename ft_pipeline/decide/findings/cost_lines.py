"""What 1,000 answers cost, for the first screen of the report and for the card."""

from dataclasses import dataclass

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.evaluation.comparison.result_records import TrainingCost
from ft_pipeline.pace import format_duration


@dataclass(frozen=True)
class CostLine:
    """What 1,000 answers of a row cost."""

    name: str
    cost: str
    """In the currency of `costs`; empty if there are no prices."""
    seconds: str
    prompt_tokens: str
    training: str
    """What its training took, once."""
    paid_back: str
    """After how many answers the training is paid back, against the bar."""


def cost_lines(comparison: Comparison, row: Row) -> list[CostLine]:
    """Return what 1,000 answers cost: of the chosen row, of the best use of its base model, of the champion and of what
    others serve: the teacher and the contenders."""
    others = [comparison.best_bar(row), comparison.best_prompt(row)]
    others += [other for other in comparison.rows if other.kind in ("champion", "teacher", "contender")]
    names = list(dict.fromkeys([row.name, *(other.name for other in others if other)]))
    return [_cost_line(comparison, other) for name in names if (other := comparison.row(name))]


def _cost_line(comparison: Comparison, row: Row) -> CostLine:
    entry = next((entry for entry in comparison.break_even if entry.tuned == row.name), None)
    calls = [] if entry is None else [entry.calls_by_cost, entry.calls_by_time]
    paid = next((f"{count:,} answers" for count in calls if count is not None), "never" if entry else "")
    cost, seconds, tokens = row.cost_per_1000, row.seconds_per_call, row.prompt_tokens_per_call
    return CostLine(
        f"{row.name} (ends on {row.ends})" if row.ends else row.name,
        "" if cost is None else f"{cost:,.2f}",
        "" if seconds is None else format_duration(1000 * seconds),
        "" if tokens is None else f"{1000 * tokens:,.0f}",
        "" if row.training is None else _training(row.training),
        paid,
    )


def _training(training: TrainingCost) -> str:
    cost = "" if training.cost is None else f", {training.cost:,.2f}"
    return f"{format_duration(training.seconds)}{cost}"
