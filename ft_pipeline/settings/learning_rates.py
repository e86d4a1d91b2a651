"""Default learning rates, by technique, objective and size of the base model."""

from ft_pipeline.settings.experiment import ExperimentSettings, Objective, Technique

USUAL: dict[Technique, float] = {"prompt_tuning": 1e-2, "lora": 1e-3, "qlora": 1e-3, "full": 5e-5}
"""For a base model of some hundred million parameters.

LoRA's best rate is about ten times that of full fine-tuning, about fifteen times in runs of a hundred steps, and hardly
depends on the rank (Schulman et al., LoRA Without Regret, Thinking Machines Lab 2025). The factor here is twenty, as in
the first version: another rate would train existing experiments again.
"""
DPO_SHARE = 0.1
"""Factor for dpo, which starts from a model that is already trained."""
LARGE = 1_000_000_000
"""Number of parameters from which a base model is large."""
LARGE_SHARE = 0.2
"""Factor for a large base model. QLoRA at 7B and 13B: 2e-4 (Dettmers et al. 2023, arXiv 2305.14314, table 9)."""


def usual_learning_rate(technique: Technique, objective: Objective, params: int) -> float:
    """The peak learning rate of the schedule for a base model of `params` parameters."""
    rate = USUAL[technique]
    if objective == "dpo":
        rate *= DPO_SHARE
    return rate * LARGE_SHARE if params >= LARGE else rate


def resolved(settings: ExperimentSettings, params: int) -> ExperimentSettings:
    """`settings` with a learning rate: the one that they set, else the default for `params` parameters."""
    if settings.training.learning_rate is not None:
        return settings
    rate = usual_learning_rate(settings.technique, settings.objective, params)
    return settings.model_copy(update={"training": settings.training.model_copy(update={"learning_rate": rate})})
