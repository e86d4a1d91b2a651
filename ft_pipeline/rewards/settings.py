"""The section `grpo` of an experiment: which rewards train it, and how answers are drawn."""

from typing import Literal

from pydantic import Field, model_validator

from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.settings.objectives import ObjectiveRules
from ft_pipeline.settings.yaml_file import Section, later, rule_error


class GrpoSettings(Section):
    """TRL's GRPOConfig, same names (Shao et al. 2024, arXiv 2402.03300). docs/rewards.md describes the rewards."""

    rewards: dict[str, float] = Field(default_factory=dict)
    """Weights of the metrics whose values are the reward, by name: `{schema_valid: 1, order: 2}`. They are metrics of
    `evaluation.metrics`, `exact_match`, `rouge_l`, `chrf`, `format_valid`, `fields_match`, or those of calls."""
    num_generations: int = Field(8, ge=2, le=128)
    """Answers that are drawn for each prompt. The reward of an answer counts against the mean of its group."""
    max_new_tokens: int = Field(96, ge=1, le=4096)
    """The longest answer, in tokens. An answer that reaches it is cut off, and its reward is that of the text so
    far."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Temperature at which answers are drawn, and at which the loss computes their probabilities."""
    beta: float = Field(0.04, ge=0)
    """Weight of the KL to the model that training starts from. 0: none, and the start needs no pass."""
    scale_rewards: Literal["group", "none"] = "group"
    """`group` divides by the standard deviation of the rewards of a group. `none` does not (Dr. GRPO, arXiv
    2503.20783): prompts that are nearly always answered right or wrong then weigh less."""
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    """What the summed loss is divided by: all tokens of the answers of a step (`dapo`, arXiv 2503.14476), the tokens of
    each answer, then the answers (`grpo`), or the answers times `max_new_tokens` (`dr_grpo`)."""
    mask_truncated_completions: bool = False
    """Whether answers that are cut off are left out of the loss. Their rewards still count for the mean of the
    group."""
    reward_seconds: float = Field(10, gt=0)
    """Time for the reward of one answer. An answer that takes longer, or that ends the process, has the lowest reward
    of its step."""
    reward_memory_gb: float = Field(2, gt=0)
    """Memory of the process that computes rewards, in GB (10⁹ bytes)."""

    @model_validator(mode="after")
    def _check_weights(self) -> "GrpoSettings":
        for name, weight in self.rewards.items():
            if weight <= 0:
                raise rule_error(
                    f"rewards.{name}", f"the weight of the reward {name!r} is {weight:g}. Use a weight above 0."
                )
        return self


class RewardKeys(FeatureKeys):
    """What an experiment may say."""

    grpo: GrpoSettings = later(GrpoSettings())


GRPO = ObjectiveRules(
    spec="ft_pipeline.rewards.objective:GRPO",
    section="grpo",
    others="has no rewards",
    rows="the prompts of the conversations",
    no_prompt_tuning="a few virtual tokens cannot learn it",
    starts_trained=True,
    draws_answers=True,
)
