"""Default learning rates, by technique, objective and size of the base model."""

from ft_pipeline.settings.experiment import ExperimentSettings, Objective, Technique
from ft_pipeline.settings.objectives import objective_rules

BASE_RATES: dict[Technique, float] = {"prompt_tuning": 1e-2, "lora": 1e-3, "qlora": 1e-3, "full": 5e-5}
"""Learning rates for sft and cpt, for a base model of some hundred million parameters.

LoRA's best rate is about ten times that of full fine-tuning, about fifteen times in runs of a hundred steps, and hardly
depends on the rank (Schulman et al., LoRA Without Regret, Thinking Machines Lab 2025). The factor here is twenty, as in
the first version: another rate would train existing experiments again.
"""
DPO_FACTOR = 0.1
"""The rate of objectives that improve a model which is trained already (dpo, kto, grpo) is multiplied by this."""
LARGE_MODEL_PARAMS = 1_000_000_000
"""A base model with at least this many parameters is large."""
LARGE_MODEL_FACTOR = 0.2
"""The rate for a large base model is multiplied by this. QLoRA at 7B and 13B: 2e-4 (Dettmers et al. 2023, arXiv
2305.14314, table 9)."""


def default_learning_rate(technique: Technique, objective: Objective, params: int) -> float:
    """Return the default peak learning rate of the schedule, for a base model of `params` parameters."""
    rate = BASE_RATES[technique]
    if objective_rules()[objective].starts_trained:
        rate *= DPO_FACTOR
    return rate * LARGE_MODEL_FACTOR if params >= LARGE_MODEL_PARAMS else rate


def with_learning_rate(settings: ExperimentSettings, params: int) -> ExperimentSettings:
    """Return `settings` with a learning rate: the one that they set, else the default for `params` parameters."""
    if settings.training.learning_rate is not None:
        return settings
    rate = default_learning_rate(settings.technique, settings.objective, params)
    return settings.model_copy(update={"training": settings.training.model_copy(update={"learning_rate": rate})})
