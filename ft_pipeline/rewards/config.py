"""What the rewards of an experiment are computed with: its metrics, with the content of the files that they name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.metrics.custom_metrics import resolve_metrics
from ft_pipeline.evaluation.metrics.single_answers import single_answer_values
from ft_pipeline.models.generation_config import ignored_while_decoding
from ft_pipeline.project import Project
from ft_pipeline.rewards.settings import RewardKeys
from ft_pipeline.settings.evaluation import CALL_METRICS, EvaluationSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.store.artifacts import Artifact


def reward_config(root: Path, settings: EvaluationSettings, rewards: Mapping[str, float]) -> dict[str, Any]:
    """Return the part of a spec that the reward of an answer depends on.

    rewards: the weights of the experiment, by metric. `signs` has the factor of each value: negative where lower is
    better. UserError if there is none, if a metric does not exist, or if it is of all answers together.
    """
    if not rewards:
        raise UserError("objective 'grpo' needs a reward. Set `grpo.rewards: {METRIC: 1}`, see docs/rewards.md.")
    used = {name.partition("/")[0] for name in rewards}
    metrics = {name: metric for name, metric in settings.metrics.items() if name in used}
    known = single_answer_values(settings)
    for name in rewards:
        if name not in known:
            raise UserError(
                f"grpo.rewards names {name!r}, which is no metric of single answers in this project. Use one of "
                f"{', '.join(known)}, or add it to evaluation.metrics."
            )
    answer_format = settings.answer_format.model_dump(mode="json") if settings.answer_format else None
    rules = settings.model_dump(mode="json", include={"call_arguments"})["call_arguments"]
    return {
        "evaluation": {"answer_format": answer_format if {"format_valid", "fields_match"} & used else None},
        "custom_metrics": resolve_metrics(root, metrics),
        "call_arguments": rules if used & {*CALL_METRICS} else {},
        "signs": {name: known[name] for name in rewards},
    }


def facts_of_adapter(project: Project, settings: ExperimentSettings, base: Artifact) -> dict[str, Any]:
    """Return what an adapter depends on besides its settings: the rewards, and keys of the base model's own
    generation config, which would change its answers."""
    rewards = reward_config(project.root, project.settings.evaluation, RewardKeys.of(settings).grpo.rewards)
    return {"rewards": rewards, **ignored_while_decoding(base.path)}
