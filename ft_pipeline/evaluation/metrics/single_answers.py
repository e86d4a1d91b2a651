"""The metrics that have a value for each answer, and not only for all together: what an answer can be rewarded for."""

from ft_pipeline.settings.checks import ALL_FIELDS, CheckMetric, FieldsMetric, FunctionMetric
from ft_pipeline.settings.evaluation import CALL_METRICS, EvaluationSettings

_ALWAYS = ("exact_match", "rouge_l", "chrf")
_SCALES = {"chrf": 0.01}
"""Factors of metrics that are not shares."""


def single_answer_values(settings: EvaluationSettings) -> dict[str, float]:
    """Return the metrics of single answers, each with the factor that makes its values shares where more is better."""
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
    return [name for name in single_answer_values(settings) if name not in always and "/" not in name]


def _values_of(name: str, metric: FunctionMetric | CheckMetric) -> dict[str, float]:
    if isinstance(metric, FunctionMetric):
        return {} if metric.corpus else {name: -1.0 if metric.lower_is_better else 1.0}
    second = {f"{name}/{ALL_FIELDS}": 1.0} if isinstance(metric, FieldsMetric) else {}
    return {name: 1.0} | second
