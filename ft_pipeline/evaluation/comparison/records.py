"""comparison.json as records. No other code reads or writes the keys of that document.

The order of the fields is the order of the keys: the file is hashed. A field with a default is one that documents of
older versions may lack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ft_pipeline.evaluation.comparison.json_record import JsonRecord
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
from ft_pipeline.evaluation.model_kinds import BASELINES, ModelKind

if TYPE_CHECKING:
    from ft_pipeline.store.artifacts import Artifact

CHAMPION = "champion"
"""The name of the released model, where it is compared and where it is contaminated."""
FIRST_RULES = "1: percentile bootstrap; forgetting against the best base row; no rails"
"""The rules of documents that name none."""
RULES = "2: skew-corrected t over conversations, Wilson for shares; forgetting against the own base; rails"
"""The rules of this version."""
OPTIONAL_LISTS = ("contaminated", "kept_leads", "lead_tests", "recipe_leads")
"""Keys of the document that are left out if their lists are empty."""
GENERAL_ACCURACY = "general_accuracy"
"""The metric that shows forgetting."""


def describe_interval(low: float | None, high: float | None, digits: int = 3, *, sign: str = "") -> str:
    """Return the bounds of an interval, or that there are none. sign: "+" also writes that of positive bounds."""
    if low is None or high is None:
        return "unknown from one conversation"
    return f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"


@dataclass(frozen=True)
class Score(JsonRecord):
    """A metric of one row, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """The bounds are None if a single conversation was measured, which shows no spread."""

    @property
    def is_clear(self) -> bool:
        """For a lead: whether its interval is above zero."""
        return self.low is not None and self.low > 0

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval as a picture shows it: the value, if there is no interval."""
        return (self.value, self.value) if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class PairedDifference(JsonRecord):
    """The lead of one row over another, with its paired 95 % interval. Bounds are None as those of a Score."""

    better: str
    worse: str
    metric: str
    difference: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.low > 0

    def describe(self) -> str:
        """Return the difference with its interval."""
        return f"{self.difference:.3f} (95 %: {describe_interval(self.low, self.high)})"


@dataclass(frozen=True)
class LeadTest(JsonRecord):
    """The one-sided test of the hypothesis that a row does not lead a rival, on the primary metric."""

    row: str
    rival: str
    p: float | None
    """None if the lead is the same in every conversation, or if there is only one: no decision."""


@dataclass(frozen=True)
class KeptLead(JsonRecord):
    """How much of the best tuned row's lead over the best baseline another tuned row has."""

    row: str
    best: str
    baseline: str
    share: float
    """The row's lead divided by the best row's."""
    wanted: float
    """The share that it must be shown to keep (PromotionSettings.keeps)."""
    low: float | None
    """Lower one-sided 95 % bound of its lead minus `wanted` times the best row's lead."""

    @property
    def is_shown(self) -> bool:
        """Whether it is shown that the row keeps the wanted share."""
        return self.low is not None and self.low > 0


@dataclass(frozen=True)
class RecipeLead(JsonRecord):
    """The lead of an experiment over a rival, over several trainings that differ only in their seed."""

    row: str
    rival: str
    trainings: int
    leads: Sequence[float]
    """Of each training, the row's own first."""
    lead: float
    """Their mean."""
    low: float | None
    """The ends of its 95 % interval, over conversations and trainings. None for two trainings."""
    high: float | None
    lower: float | None
    """Lower one-sided 95 % bound."""

    @property
    def is_shown(self) -> bool:
        """Whether the recipe leads: its lower bound is above zero; of two trainings, both lead."""
        return self.lower > 0 if self.lower is not None else min(self.leads) > 0

    def describe(self) -> str:
        """Return the lead with its interval."""
        if self.low is None:
            return f"{self.lead:.3f} in {self.trainings} trainings ({min(self.leads):.3f} to {max(self.leads):.3f})"
        interval = describe_interval(self.low, self.high)
        return f"{self.lead:.3f} in {self.trainings} trainings (95 %: {interval}, over seeds and conversations)"


@dataclass(frozen=True)
class TrainingCost(JsonRecord):
    """The time and cost of a training, over all phases and with merging."""

    seconds: float
    gpu_hours: float
    """Hours times GPUs. Without a GPU: hours of the machine."""
    cost: float | None = None
    """None if a GPU-hour has no price."""


@dataclass(frozen=True)
class Savings(JsonRecord):
    """What a call of a tuned model saves against one of the best baseline. Negative: it needs more. None: unknown."""

    prompt_tokens_per_call: float | None
    seconds_per_call: float | None
    cost_per_call: float | None = None


@dataclass(frozen=True)
class BreakEven(JsonRecord):
    """After how many calls a training has paid for itself. None: a call saves nothing, or its cost is unknown."""

    tuned: str
    untouched: str
    """The best baseline."""
    saved: Savings
    training: TrainingCost
    calls_by_time: int | None
    calls_by_cost: int | None = None


@dataclass(frozen=True)
class SeedScores(JsonRecord):
    """A metric of trainings that differ only in their seed."""

    mean: float
    min: float
    max: float
    values: Sequence[float]
    """The experiment's own value first."""


@dataclass(frozen=True)
class SeedSpread(JsonRecord):
    """A tuned row that was trained with several seeds."""

    row: str
    experiment: str
    trainings: int
    scores: Mapping[str, SeedScores]


@dataclass(frozen=True)
class CurvePoint(JsonRecord):
    """One training of a learning curve."""

    experiment: str
    share: float
    rows: int | None
    """Training rows written by people; None if unknown."""
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class CurveStep(JsonRecord):
    """The paired difference of the last two points of a learning curve. Positive: more rows are better."""

    metric: str
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LearningCurve(JsonRecord):
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


@dataclass(frozen=True)
class QuantizationError(JsonRecord):
    """The error from quantizing or merging: the second model of an experiment against the first, in nats per token.

    The fields are in alphabetical order, because manifests sort their keys.
    """

    difference: float
    first: str
    first_loss: float
    kl: float
    second: str
    second_loss: float


@dataclass(frozen=True)
class ScoredAnswer(JsonRecord):
    """An answer to a test item, with the primary metric."""

    value: float
    answer: str


@dataclass(frozen=True)
class ItemChange(JsonRecord):
    """One test item before and after tuning."""

    item: str
    gain: float
    """Positive if the tuned model is better."""
    prompt: str
    reference: str
    before: ScoredAnswer
    after: ScoredAnswer


@dataclass(frozen=True)
class Changes(JsonRecord):
    """Improvements and regressions per test item, from the best baseline to the best tuned row."""

    before: str
    after: str
    metric: str
    improved: int
    unchanged: int
    regressed: int
    worst: Sequence[ItemChange]
    """Some regressions, the worst first."""


@dataclass(frozen=True)
class LeftOut(JsonRecord):
    """A scored model that is not compared, because its evaluation or its training differs."""

    name: str
    experiment: str | None
    fingerprint: str | None
    differs_in: Sequence[str]


@dataclass(frozen=True)
class ContaminatedModel(JsonRecord):
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


@dataclass(frozen=True, kw_only=True)
class Forgetting(JsonRecord):
    """How much general accuracy a tuned model loses against its own base model (forgetting.py)."""

    base: str
    """The row of its base model."""
    verdict: Literal["kept", "forgets", "cannot be told"]
    questions: int
    lost: int
    """Number of questions that the base model answers rightly, and the tuned model wrongly."""
    won: int
    """The reverse."""
    drop: float
    """Of the accuracy, as is `margin`. Negative: a gain. One question is added to `lost` and one to `won`."""
    low: float
    """Lower one-sided 95 % bound of the drop."""
    high: float
    margin: float
    wanted: int | None
    """Number of questions that would show in 80 % of the cases that nothing is lost. None for a margin of 0."""

    def describe(self) -> str:
        """Return the result as a sentence. Drops are in points."""
        counted = f"{self.lost} of {self.questions} questions were lost and {self.won} won"
        low, high, margin = (f"{100 * value:.1f}" for value in (self.low, self.high, self.margin))
        if self.verdict == "kept":
            return (
                f"Keeps general knowledge: {counted}; the true drop is at most {high} points, the margin is {margin}."
            )
        if self.verdict == "forgets":
            return f"Forgets: {counted}; the true drop is at least {low} points, the margin is {margin}."
        decides = f" About {self.wanted:,} questions would decide." if self.wanted else ""
        return (
            f"Forgetting cannot be told: {counted}; the true drop may be anywhere from {low} to {high} points, the "
            f"margin is {margin}.{decides}"
        )


@dataclass(frozen=True)
class Rail(JsonRecord):
    """The share of a model's test answers with one fault, and what it means (rails.py)."""

    name: str
    fault: str
    """What these answers do, as the end of a sentence."""
    faults: int
    answers: int
    low: float
    """Lower one-sided 95 % bound of the share."""
    high: float
    ceiling: float
    verdict: Literal["pass", "breach", "cannot be told", "off", "not checked"]
    """off: the references have the fault too. not checked: its patterns are for another language."""

    @property
    def prevents_release(self) -> bool:
        """Whether a model is not released because of it."""
        return self.verdict in ("breach", "cannot be told")

    def describe(self) -> str:
        """Return the share as a sentence."""
        share = self.faults / self.answers
        bounds = f"{share:.0%} of its answers {self.fault} ({self.low:.0%} to {self.high:.0%}"
        return f"{bounds}; at most {self.ceiling:.0%} is wanted)"


@dataclass(frozen=True, kw_only=True)
class ComparisonRow(JsonRecord):
    """One model under one prompt."""

    name: str
    kind: ModelKind
    experiment: str | None = None
    technique: str | None = None
    passages: int = 0
    """Number of passages that are retrieved per call."""
    scores: Mapping[str, Score]
    prompt_tokens_per_call: float | None = None
    generated_tokens_per_call: float | None = None
    seconds_per_call: float | None = None
    cut_off: int = 0
    """Answers that reached the maximum length."""
    cost_per_call: float | None = None
    trainable_params: int = 0
    general: Mapping[str, Any] | None = None
    """Results of the general suite: `accuracy`, `loss`; None if it was not run."""
    fingerprint: str | None = None
    """Of the evaluation."""
    computed_in: str | None = None
    """The data type of the computation. None: scored by a server, or before this was recorded."""
    source: str = ""
    """The input that it was read from, `<experiment>/<asset>`."""
    source_row: str = ""
    """Its name in scores.json."""
    training: TrainingCost | None = None
    forgetting: Forgetting | None = None
    """None for models that are not tuned, and where general accuracy was not measured."""
    rails: Sequence[Rail] = ()
    """Empty in comparisons of older versions."""

    @property
    def breaches(self) -> list[Rail]:
        """The rails that are in breach: then the model is not usable."""
        return [rail for rail in self.rails if rail.verdict == "breach"]

    @property
    def is_usable(self) -> bool:
        """Whether no fault of its answers is too common for it to be used."""
        return not self.breaches

    @property
    def is_sound(self) -> bool:
        """Whether it is usable, and not shown to forget."""
        return self.is_usable and (self.forgetting is None or self.forgetting.verdict != "forgets")

    @property
    def accuracy(self) -> float | None:
        """The general accuracy; None if it was not measured."""
        return (self.general or {}).get("accuracy")


@dataclass(frozen=True, kw_only=True)
class Comparison(JsonRecord):
    """The document of `ft compare --json`."""

    test_rows: int
    test_items: int
    primary_metric: str
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """The metrics that some row has, in display order."""
    rows: Sequence[ComparisonRow]
    """Best first by the primary metric; rows that do not have it come last."""
    pairs: Sequence[PairedDifference] = ()
    break_even: Sequence[BreakEven] = ()
    seeds: Sequence[SeedSpread] = ()
    learning_curves: Sequence[LearningCurve] = ()
    quantization_noise: Mapping[str, Sequence[QuantizationError]] = field(default_factory=dict)
    """By experiment."""
    changes: Changes | None = None
    fingerprint: str | None = None
    """Of the evaluation."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """The parts of that fingerprint."""
    left_out: Sequence[LeftOut] = ()
    champion: Mapping[str, Any] | None = None
    """The champion that is compared: `name`, `experiment`, `fingerprint`."""
    rules: str = FIRST_RULES
    """The rules by which it was made: those of its intervals, of forgetting and of rails."""
    contaminated: Sequence[ContaminatedModel] = field(default_factory=list)
    """Tuned models that are not compared because they learned from test rows. They are not in `left_out`."""
    kept_leads: Sequence[KeptLead] = field(default_factory=list)
    """Of the tuned rows other than the best, on the primary metric."""
    lead_tests: Sequence[LeadTest] = field(default_factory=list)
    """Of every row that may be released, for each row that it leads."""
    recipe_leads: Sequence[RecipeLead] = field(default_factory=list)
    """Of the tuned rows that were trained with several seeds."""

    def to_json(self) -> dict[str, Any]:
        """Return the document. It has the keys of OPTIONAL_LISTS only if there are entries: most documents never do."""
        document = super().to_json()
        return {key: value for key, value in document.items() if value or key not in OPTIONAL_LISTS}

    @property
    def unusable(self) -> list[str]:
        """A sentence per row whose answers have a fault too often."""
        return [
            f"{row.name}: {'; '.join(rail.describe() for rail in row.breaches)}" for row in self.rows if row.breaches
        ]

    @property
    def contaminated_champion(self) -> ContaminatedModel | None:
        """The champion's entry in `contaminated`."""
        return next((entry for entry in self.contaminated if entry.model == CHAMPION), None)

    @property
    def contaminated_experiments(self) -> list[ContaminatedModel]:
        """The experiments in `contaminated`."""
        return [entry for entry in self.contaminated if entry.model != CHAMPION]

    @property
    def champion_fingerprint(self) -> str | None:
        """The fingerprint of the champion that is compared; None if there is none, or if it was not recorded."""
        return (self.champion or {}).get("fingerprint")

    def metric(self, name: str | None = None) -> Metric:
        """Return a metric, by default the primary one. Metrics that only this task has are defined in `metrics`."""
        metric_name = name or self.primary_metric
        return self.metrics.get(metric_name) or METRICS[metric_name]

    def shown_metrics(self) -> dict[str, Metric]:
        """Return the metrics worth a column, in order.

        Exact match is left out if no answer equals its reference, as for free text, unless it is the primary metric.
        """
        shown = dict(self.metrics)
        matches = any(row.scores["exact_match"].value for row in self.rows if "exact_match" in row.scores)
        if not matches and self.primary_metric != "exact_match":
            shown.pop("exact_match", None)
        return shown

    def row(self, name: str | None) -> ComparisonRow | None:
        """Return the row of that name; None if there is none."""
        return next((row for row in self.rows if row.name == name), None)

    def ranked(self, metric: str | None = None, rows: Sequence[ComparisonRow] | None = None) -> list[ComparisonRow]:
        """Return the rows with a metric, best first. Equal rows keep their order.

        metric: default: the primary one. rows: default: all.
        """
        name, definition = metric or self.primary_metric, self.metric(metric)
        measured = [row for row in (self.rows if rows is None else rows) if name in row.scores]
        return sorted(measured, key=lambda row: definition.rank_key(row.scores[name].value))

    def best_baseline(self, metric: str | None = None, *, passages: bool | None = None) -> ComparisonRow | None:
        """Return the best usable baseline by a metric, by default the primary one; the best one if none is usable.

        passages: True: only among those that retrieve passages; False: only among the others.
        """
        baselines = [row for row in self.ranked(metric) if row.kind in BASELINES]
        wanted = [row for row in baselines if passages in (None, bool(row.passages))]
        return next((row for row in wanted if row.is_usable), wanted[0] if wanted else None)

    def recipe_leads_of(self, row: ComparisonRow) -> list[RecipeLead]:
        """Return the leads of a row's recipe over the best baseline and the champion; empty if it was trained once."""
        return [lead for lead in self.recipe_leads if lead.row == row.name]

    def difference(
        self, better: ComparisonRow, worse: ComparisonRow, metric: str | None = None
    ) -> PairedDifference | None:
        """Return the paired difference in which `better` leads `worse`; None if it does not lead.

        metric: default: the primary one.
        """
        return self._differences.get((better.name, worse.name, metric or self.primary_metric))

    def difference_between(
        self, first: ComparisonRow, second: ComparisonRow, metric: str | None = None
    ) -> PairedDifference | None:
        """Return the paired difference of two rows, whichever leads; None if they were not compared."""
        return self.difference(first, second, metric) or self.difference(second, first, metric)

    def lead_over(self, row: ComparisonRow, rival: ComparisonRow) -> Score | None:
        """Return the lead of a row over a rival on the primary metric, negative if it is behind; None if unknown."""
        if (ahead := self.difference(row, rival)) is not None:
            return Score(ahead.difference, ahead.low, ahead.high)
        if (behind := self.difference(rival, row)) is None:
            return None
        low, high = (None if bound is None else -bound for bound in (behind.high, behind.low))
        return Score(-behind.difference, low, high)

    def clearly_better(self, better: ComparisonRow, worse: ComparisonRow, metric: str | None = None) -> bool:
        """Return whether `better` leads `worse` with an interval that excludes zero."""
        lead = self.difference(better, worse, metric)
        return lead is not None and lead.is_clear

    def p_value(self, row: ComparisonRow, rival: ComparisonRow) -> float | None:
        """Return the p-value of the row's lead over a rival; None if there is none, as in older comparisons."""
        return next((test.p for test in self.lead_tests if (test.row, test.rival) == (row.name, rival.name)), None)

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str], PairedDifference]:
        return {(pair.better, pair.worse, pair.metric): pair for pair in self.pairs}


def read_comparison(artifact: "Artifact") -> Comparison:
    """Return the comparison in an artifact."""
    return Comparison.from_json(artifact.document("comparison.json"))
