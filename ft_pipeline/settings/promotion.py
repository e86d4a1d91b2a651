"""Settings of the promotion: what a candidate must show to become champion."""

from typing import Annotated, Literal

from pydantic import Field

from ft_pipeline.settings.yaml_file import Section, later

RailName = Literal["cut_off", "repetition", "empty", "holes", "refusal", "personal_data", "format"]
Ceiling = Annotated[float, Field(ge=0, le=1)]


class PromotionSettings(Section):
    """Requirements for a candidate to become champion."""

    metric: str = "auto"
    """What decides which model is better. auto: people who rated 50 pairs of these answers; else a judge that agrees
    with people; else a check of the answers if there is one (a metric with `decides`, calls of tools, exact match if
    90 % of the references have at most five words, JSON fields); else the likelihood of the reference answers, and chrF
    must not be worse. Or nats_per_byte, chrf, rouge_l, exact_match, format_valid (with evaluation.answer_format),
    call_names, call_arguments, call_order (of test rows with tools), or a value of one of evaluation.metrics, such as
    topic or topic/macro_f1. `loss`, of older projects, means auto."""
    answers_margin: float = Field(2.0, ge=0)
    """By how much the chrF of a candidate (0 to 100) may be worse where a likelihood decides."""
    false_moves: float = Field(0.05, gt=0, lt=0.5)
    """Largest probability that the champion moves to a model that is not better. Two thirds are divided among tuned
    models, and a third among prompts and classifiers: the first one has half of that, two that are compared together
    have a third each, and so on. Each earlier look at the test rows leaves less."""
    min_test_rows: int = Field(50, ge=2)
    """Smallest number of test conversations for a decision. From 50 on, equal models are called different as rarely as
    promised; with fewer, do not trust a decision that you allow here."""
    forgetting_margin: float = Field(0.05, ge=0)
    """Largest allowed drop in general accuracy (absolute)."""
    incumbent_margin: float = Field(0.05, ge=0, lt=1)
    """By how much a model of one's own may be worse than the incumbent contender: absolute for shares, 100 times that
    for chrF, relative for likelihoods."""
    worth: float | None = later(None, gt=0, lt=1)
    """Smallest lead over the best prompt that is worth a training, in the unit of `incumbent_margin`. Only where the
    lead of every tuned model is shown to be below it, the verdict is "do not fine-tune". Without it: 0.02 (2 points, or
    2 of chrF), and 0.01 of a likelihood."""
    keeps: float = Field(0.8, gt=0, le=1)
    """Share of the best model's lead over the best baseline that a simpler technique must be shown to keep, to be
    recommended in its place."""
    rails: dict[RailName, Ceiling | None] = Field(default_factory=dict)
    """Other ceilings for the share of test answers with a fault: cut_off (0.1), repetition, empty, refusal and format
    (0.05 each), holes and personal_data (0.02 each). Null switches one off."""
    two_people: bool = Field(False, exclude=True)  # in no spec: it does not change what the rules decide
    """Whether another person must approve each move of the champion, by the rules or by `ft promote`: `ft approve`."""

    @property
    def wanted_metric(self) -> str:
        """`metric`, or what it means today."""
        return "auto" if self.metric == "loss" else self.metric
