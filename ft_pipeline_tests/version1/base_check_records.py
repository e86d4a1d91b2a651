"""What comparison.json says of one thing that a tuned model must keep of its own base model."""

from dataclasses import dataclass
from typing import Literal

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline_tests.version1.json_record import JsonRecord

NOTHING_ELSE = Comparison(test_rows=0, test_items=0, primary_metric="loss", rows=[], rules="")

BaseVerdict = Literal["kept", "lost", "cannot be told", "not in base", "unknown"]


@dataclass(frozen=True, kw_only=True)
class BaseCheck(JsonRecord):
    """Whether a tuned model kept the behavior that probes show, or its result on a task (base_checks.py)."""

    kind: Literal["probes", "task"]
    name: str
    """Of the probes in the settings; of a task with its metric, `task/metric`."""
    verdict: BaseVerdict
    """not in base: the base model does not do what is wanted either. unknown: it was not measured (`because`)."""
    margin: float
    """Of the share of answers or of the metric, as are `drop`, `low` and `high`."""
    wanted: str = ""
    """What an answer to the probes should do, in the past: "declined"."""
    base: str | None = None
    """The row of its base model."""
    count: int = 0
    """Number of questions, or of documents of the task."""
    before: float | None = None
    """Share or metric of the base model."""
    after: float | None = None
    lost: int = 0
    """Number of questions on which it is worse than its base model."""
    won: int = 0
    """The reverse."""
    drop: float | None = None
    low: float | None = None
    """Lower one-sided 95 % bound of the drop."""
    high: float | None = None
    needed: int | None = None
    """Number of questions that show in 80 % of the cases that it kept this, if the true drop is the observed one
    (drops.py). None if that is not below the margin."""
    is_rate: bool = True
    """Whether each answer is right or wrong. Then numbers are said in points."""
    because: str = ""
