"""A model that is scored, under a prompt."""

from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.evaluation.model_kinds import ModelKind
from ft_pipeline.evaluation.scoring.prompts import Prompt


@dataclass(frozen=True)
class ModelUnderTest:
    """A model to score, under a prompt."""

    name: str
    """The name of its row in scores.json."""
    kind: ModelKind
    prompt: Prompt
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts about the model and its prompt: the key `model` of its row."""
    runs_general_suite: bool = False
    """Whether it is also scored on what shows what tuning costs: the general suite, and the probes."""
    same_weights_as: str | None = None
    """The name of a model that is scored before it, and has the same weights: its results in the general suite and on
    the probes are taken over, because these have no prompt variant."""
    is_candidate: bool = True
    """Whether it is also scored on what only candidates need: validation rows, on which they are screened, and the
    lm-eval tasks."""
