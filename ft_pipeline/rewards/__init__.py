"""Rewards: training on the model's own answers, which metrics of the project score (grpo)."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="rewards",
    about="A model learns from rewards of its own answers.",
    docs="rewards.md",
    settings={"objective": "ft_pipeline.rewards.settings:RewardKeys"},
    objectives={"grpo": "ft_pipeline.rewards.settings:GRPO"},
)
