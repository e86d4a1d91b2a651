"""What a comparison says of break-even, seeds, learning curves and changes, and of models that are left out."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel

from ft_pipeline.evaluation.comparison.score import Score, describe_score

CHAMPION = "champion"
"""The name of the released model, where it is compared and where it is contaminated."""


WANTED_RATINGS = 50
"""Pairs of answers that people must rate before their opinion decides."""
METRIC_IS_NAMED = "promotion.metric names"
"""Begins the reason of a comparison whose metric the project names (Comparison.names_metric)."""
SliceKind = Literal["rule", "tag", "source", "language", "length", "turns"]
"""What a slice is defined on. `rule`: `evaluation.slices` of the project."""


class GgufCosts(BaseModel, frozen=True):
    """What a GGUF file costs against its merged model, on the test rows."""

    loss_increase: Score
    """Nats per token of the reference answers."""
    kl: Score
    """KL(merged || GGUF), nats per token of the reference answers."""
    agreement: Score
    """In 32 bit: share of the answers that equal the merged model's own, up to the first token whose two best
    candidates differ by less than 0.1 nats."""
    identical: Score
    """In 32 bit: share of the answers that equal the merged model's own as a whole."""

    def describe(self, merged: str) -> str:
        """Return the costs as a clause. merged: the name of the merged model's row."""
        return (
            f"{describe_score(self.loss_increase, 4, sign='+')} nats per token against {merged}, KL "
            f"{describe_score(self.kl, 4)}; agreement {describe_score(self.agreement)}, identical "
            f"{describe_score(self.identical)}"
        )


class TrainingCost(BaseModel, frozen=True):
    """The time and cost of a training, over all phases and with merging."""

    seconds: float
    gpu_hours: float
    """Hours times GPUs. Without a GPU: hours of the machine."""
    cost: float | None = None
    """With labels and the teacher's bill. None if a GPU-hour has no price."""
    teacher: float | None = None
    """The bill of the teacher whose answers it was trained on; None if there was none."""
    labels: float | None = None
    """What its training rows written by people cost; None if a label has no price."""
    unfinished: float | None = None
    """Seconds of attempts that did not finish, which are in `seconds`; None if there were none."""


class Savings(BaseModel, frozen=True):
    """What a call of a tuned model saves against one of the best baseline. Negative: it needs more. None: unknown."""

    prompt_tokens_per_call: float | None
    seconds_per_call: float | None
    cost_per_call: float | None = None


class BreakEven(BaseModel, frozen=True):
    """After how many calls a training has paid for itself. None: a call saves nothing, or its cost is unknown."""

    tuned: str
    untouched: str
    """The best baseline."""
    saved: Savings
    training: TrainingCost
    calls_by_time: int | None
    calls_by_cost: int | None = None


class SeedScores(BaseModel, frozen=True):
    """A metric of trainings that differ only in their seed."""

    mean: float
    min: float
    max: float
    values: Sequence[float]
    """The experiment's own value first."""


class SeedSpread(BaseModel, frozen=True):
    """A tuned row that was trained with several seeds."""

    row: str
    experiment: str
    trainings: int
    scores: Mapping[str, SeedScores]


class CurvePoint(BaseModel, frozen=True):
    """One training of a learning curve."""

    experiment: str
    share: float
    rows: int | None
    """Training rows written by people; None if unknown."""
    scores: Mapping[str, Score]


class CurveStep(BaseModel, frozen=True):
    """The paired difference of the last two points of a learning curve. Positive: more rows are better."""

    metric: str
    difference: float
    low: float | None
    high: float | None


class LearningCurve(BaseModel, frozen=True):
    """A tuned row that was also trained on shares of its rows."""

    row: str
    experiment: str
    points: Sequence[CurvePoint]
    """Fewest rows first."""
    last_step: CurveStep

    @property
    def rises(self) -> bool:
        """Whether the last increase in rows clearly helped."""
        return self.last_step.low is not None and self.last_step.low > 0

    @property
    def is_flat(self) -> bool:
        """Whether the last increase in rows brought no gain. An uncertain gain is neither `is_flat` nor `rises`."""
        return self.last_step.difference <= 0


class ScoredTwice(BaseModel, frozen=True):
    """A row that was scored twice. A lead by no more than its spread may be rounding."""

    row: str
    answers: int
    differing: int
    """Answers that were another one the second time."""
    spread: float
    """Distance between its two values of the primary metric."""


class QuantizationError(BaseModel, frozen=True):
    """The error from quantizing or merging: the second model of an experiment against the first, in nats per token.

    The fields are in alphabetical order, because manifests sort their keys.
    """

    difference: float
    first: str
    first_loss: float
    kl: float
    second: str
    second_loss: float


class ScoredAnswer(BaseModel, frozen=True):
    """An answer to a test item, with the primary metric."""

    value: float
    answer: str


class ItemChange(BaseModel, frozen=True):
    """One test item before and after tuning."""

    item: str
    gain: float
    """Positive if the tuned model is better."""
    prompt: str
    reference: str
    before: ScoredAnswer
    after: ScoredAnswer


class Changes(BaseModel, frozen=True):
    """Improvements and regressions per test item, from the best baseline to the best tuned row."""

    before: str
    after: str
    metric: str
    improved: int
    unchanged: int
    regressed: int
    worst: Sequence[ItemChange]
    """Some regressions, the worst first."""


class LeftOut(BaseModel, frozen=True):
    """A scored model that is not compared, because its evaluation or its training differs."""

    name: str
    experiment: str | None
    fingerprint: str | None
    differs_in: Sequence[str]


class ContaminatedModel(BaseModel, frozen=True):
    """A tuned model that is not compared, because it learned from rows that are test rows now."""

    model: str
    """An experiment, or CHAMPION."""
    rows: int
    """Number of these rows: it was trained on them, or they selected its checkpoint."""
    first: Sequence[str]
    """The first of them as table/file:row, where they were when it was trained."""
    because: str
    fix: str

    def describe(self) -> str:
        """Return why it is not compared, and what to do."""
        more = ", …" if self.rows > len(self.first) else ""
        return f"{self.model} {self.because} ({', '.join(self.first)}{more}). {self.fix}"


class Incomparable(BaseModel, frozen=True):
    """Two rows that cannot be paired on a metric."""

    a: str
    b: str
    metric: str
    because: str


class Slice(BaseModel, frozen=True):
    """A part of the test conversations."""

    name: str
    kind: SliceKind
    about: str
    """What its conversations share, as the end of "conversations …"."""
    conversations: int


class KeptPrompt(BaseModel, frozen=True):
    """How much of a prompt's lead over the model without a prompt is in the weights, and what each call saves."""

    row: str
    prompt: str
    """The row of the prompt variant."""
    plain: str
    """The row of the model without a prompt."""
    metric: str
    share: float | None
    """The row's lead over `plain`, divided by that of `prompt`. None if the prompt does not clearly lead."""
    low: float | None
    """The ends of the 95 % interval of the share."""
    high: float | None
    saved: Savings
    """Against the prompt."""

    def describe(self) -> str:
        """Return what was kept and saved, in two sentences."""
        return f"{self._kept()} Each call {self._saving()} than with the prompt."

    def _kept(self) -> str:
        if self.share is None or self.low is None or self.high is None:
            return f"{self.prompt} does not clearly lead {self.plain}, so there is no gain that {self.row} could keep."
        interval = f"95 %: {self.low:.0%} to {self.high:.0%}"
        return f"{self.row} keeps {self.share:.0%} ({interval}) of the lead of {self.prompt} over {self.plain}."

    def _saving(self) -> str:
        parts = [
            _amount(self.saved.prompt_tokens_per_call, "{:.0f} fewer prompt tokens", "{:.0f} more prompt tokens"),
            _amount(self.saved.seconds_per_call, "{:.2g} s less", "{:.2g} s more"),
            _amount(self.saved.cost_per_call, "{:.2g} less money", "{:.2g} more money"),
        ]
        known = ", ".join(filter(None, parts))
        return f"takes {known}" if known else "takes no known amount less"


def _amount(saved: float | None, less: str, more: str) -> str:
    """Return what is saved as text; empty if it is unknown."""
    return "" if saved is None else (less if saved >= 0 else more).format(abs(saved))
