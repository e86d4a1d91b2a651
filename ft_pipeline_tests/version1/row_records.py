"""What comparison.json says of one row: scores, costs, forgetting and rails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ft_pipeline.evaluation.comparison.result_records import GgufCosts, TrainingCost
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.model_kinds import ModelKind
from ft_pipeline_tests.version1.base_check_records import BaseCheck
from ft_pipeline_tests.version1.json_record import JsonRecord


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
    """Number of questions that show in 80 % of the cases that it keeps its knowledge, if the true drop is the observed
    one (drops.py). None if that is not below the margin."""


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
    shared_prompt_tokens: int = 0
    """Number of prompt tokens that all calls begin with."""
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
    base_model: str | None = None
    """The base model that it is, or was trained from. None: another server's, or not recorded."""
    tokens: str | None = None
    """Fingerprint of its vocabulary and template. Losses per token are comparable only within one."""
    max_new_tokens: int | None = None
    """The longest answer, in its own tokens."""
    validation: Score | None = None
    """Nats per byte on the validation rows; None if it was not measured."""
    incumbent: bool = False
    """Whether it is what answers today, and is to be replaced by a model that is not worse."""
    gguf: GgufCosts | None = None
    """None for all rows but GGUF files."""
    ends: str | None = None
    """The day on which it is switched off (ISO 8601): then it is never what is recommended."""
    base_checks: Sequence[BaseCheck] = ()
    """What it must keep of its own base model: the behavior of probes, and tasks. Empty if the project has none."""
    learned_from: str | None = None
    """`preferences` or `rewards`: its likelihood of the references is no evidence. None if it imitates."""
