"""What comparison.json says of one thing that a tuned model must keep of its own base model."""

from dataclasses import dataclass
from typing import Literal

from ft_pipeline_tests.version1.json_record import JsonRecord

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

    @property
    def prevents_release(self) -> bool:
        """Whether a model is not released because of it."""
        return self.verdict not in ("kept", "not in base")

    def describe(self) -> str:
        """Return the result as a sentence or two."""
        if self.verdict == "unknown":
            return f"Nothing is known of {self._subject}: {self.because}."
        if self.verdict == "not in base":
            return f"The base model does not refuse either: in {self._subject}, {self._counts}."
        heads = {"kept": "Passes", "lost": "Fails", "cannot be told": "Cannot be told from"}
        head = f"{heads[self.verdict]} {self._subject}: {self._counts}"
        return f"{head}; {self._drop}, the margin is {self._margin}.{self._more}"

    @property
    def _subject(self) -> str:
        return f"the probes {self.name}" if self.kind == "probes" else f"the task {self.name}"

    @property
    def _counts(self) -> str:
        if self.kind == "task":
            return f"{self.lost} of {self.count} documents got worse and {self.won} better"
        before, after = (round((share or 0.0) * self.count) for share in (self.before, self.after))
        return f"the base model {self.wanted} {before} of {self.count} questions, and this model {after}"

    @property
    def _drop(self) -> str:
        assert self.low is not None and self.high is not None
        if self.verdict == "kept" and self.high < 0:
            return f"the true gain is at least {self._number(-self.high)}{self._unit}"
        if self.verdict == "cannot be told":
            return (
                f"the true drop may be anywhere from {self._number(self.low)} to {self._number(self.high)}{self._unit}"
            )
        side, bound = ("at most", self.high) if self.verdict == "kept" else ("at least", self.low)
        return f"the true drop is {side} {self._number(bound)}{self._unit}"

    @property
    def _more(self) -> str:
        """What would tell, if it cannot be told."""
        if self.verdict != "cannot be told" or self.drop is None:
            return ""
        things = "questions" if self.kind == "probes" else "documents"
        tells = f"no number of {things} would show that it is below the margin: read the answers that changed"
        if self.needed is not None:
            tells = f"about {max(1, self.needed - self.count):,} more {things} would tell"
        return f" At the observed drop of {self._number(self.drop)}{self._unit}, {tells}."

    @property
    def _margin(self) -> str:
        return self._number(self.margin)

    @property
    def _unit(self) -> str:
        return " points" if self.is_rate else ""

    def _number(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.is_rate else f"{value:.3f}"
