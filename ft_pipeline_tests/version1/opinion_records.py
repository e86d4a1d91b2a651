"""What comparison.json of version 1 said of the opinion of people, or of a judge, about the answers of two rows."""

from dataclasses import dataclass
from typing import Literal

from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.opinions.agreement import Agreement
from ft_pipeline_tests.version1.json_record import JsonRecord

LABELS = {"people": "people's preference", "judge": "the judge's preference"}
By = Literal["people", "judge"]


@dataclass(frozen=True, kw_only=True)
class Opinion(JsonRecord):
    """How often the answers of a row were preferred to those of a rival. Pairs of equal answers do not count."""

    row: str
    rival: str
    by: By
    """people: their verdicts, with those of the judge on the answers that were not rated. judge: its verdicts alone."""
    rated: int
    """Pairs of answers that people rated."""
    judged: int
    """Pairs of answers that the judge compared, as far as this opinion uses them."""
    win_rate: float
    """Share of the comparisons that the row wins. A tie counts as half a win."""
    low: float | None
    """The ends of its 95 % interval. None for one conversation."""
    high: float | None
    p: float | None
    """One-sided p-value of "its answers are not preferred"."""
    alpha: Agreement | None
    """Of people with each other on these pairs; of a judge with people on all pairs that both compared."""
    may_decide: bool
    because: str
    """Why it may decide, or why not, as a clause."""
    can_go_out: Score | None = None
    """The share of the rated pairs of which at least one answer can go out, with Wilson's interval."""
    changed: int = 0
    """Pairs that were rated before an answer changed, and not since. Then the other ratings are no fair sample."""
