"""What the rewards of an experiment are computed with: its metrics, with the content of the files that they name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.metrics.custom_metrics import resolve_metrics
from ft_pipeline.settings.checks import ALL_FIELDS, CheckMetric, FieldsMetric, FunctionMetric
from ft_pipeline.settings.evaluation import CALL_METRICS, EvaluationSettings

_ALWAYS = ("exact_match", "rouge_l", "chrf")
_SCALES = {"chrf": 0.01}
"""Factors of metrics that are not shares."""


def reward_config(root: Path, settings: EvaluationSettings, rewards: Mapping[str, float]) -> dict[str, Any]:
    """Return the part of a spec that the reward of an answer depends on.

    rewards: the weights of the experiment, by metric. `signs` has the factor of each value: negative where lower is
    better. UserError if there is none, if a metric does not exist, or if it is of all answers together.
    """
    if not rewards:
        raise UserError("objective 'grpo' needs a reward. Set `grpo.rewards: {METRIC: 1}`, see docs/rewards.md.")
    used = {name.partition("/")[0] for name in rewards}
    metrics = {name: metric for name, metric in settings.metrics.items() if name in used}
    known = _rewarded_values(settings)
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


def _rewarded_values(settings: EvaluationSettings) -> dict[str, float]:
    """Return the metrics that a reward can name, each with the factor of its values."""
    names = [*_ALWAYS, *CALL_METRICS]
    if settings.answer_format:
        names += ["format_valid", *(["fields_match"] if settings.answer_format.type == "json" else [])]
    known = {name: _SCALES.get(name, 1.0) for name in names}
    for name, metric in settings.metrics.items():
        known |= _values_of(name, metric)
    return known


def checks_of(settings: EvaluationSettings) -> list[str]:
    """Return the checks of single answers that a project declares: what an answer can be rewarded for."""
    always = {*_ALWAYS, *CALL_METRICS}
    return [name for name in _rewarded_values(settings) if name not in always and "/" not in name]


def _values_of(name: str, metric: FunctionMetric | CheckMetric) -> dict[str, float]:
    if isinstance(metric, FunctionMetric):
        return {} if metric.corpus else {name: -1.0 if metric.lower_is_better else 1.0}
    second = {f"{name}/{ALL_FIELDS}": 1.0} if isinstance(metric, FieldsMetric) else {}
    return {name: 1.0} | second
