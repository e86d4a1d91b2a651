"""Rewards as an objective. Importing this does not import torch."""

from ft_pipeline.rewards.settings import RewardKeys
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.objectives.spec import AnswerGroups, ObjectiveSpec
from ft_pipeline.training.objectives.targets import Target


def _groups(settings: ExperimentSettings) -> AnswerGroups:
    grpo = RewardKeys.of(settings).grpo
    return AnswerGroups(grpo.num_generations, grpo.max_new_tokens, keeps_start=grpo.beta > 0)


GRPO = ObjectiveSpec(
    table=None,
    weighted_tables={},
    lineage={
        "id": [("conversations", "id")],
        "input_ids": [("conversations", "messages")],
        "labels": [("conversations", "messages")],
        "conversation": [("conversations", "messages"), ("conversations", "tools")],
    },
    rows_path="ft_pipeline.rewards.grpo:prepare_rows",
    trainer_path="ft_pipeline.rewards.grpo:GroupTrainer",
    targets=(Target("eval_reward", "Held-out reward"),),
    learns_from="rewards",
    groups=_groups,
    facts_path="ft_pipeline.rewards.config:facts_of_adapter",
)
