"""The estimates of a comparison: every metric of every model, from the records that scoring left."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ft_pipeline.evaluation.comparison.leads import Conversations, Estimate, unit_of
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.call_metrics import CALL_ITEMS
from ft_pipeline.evaluation.metrics.classification import EXPECTED, FOUND
from ft_pipeline.evaluation.metrics.definitions import ANSWER_METRICS, METRICS, Metric
from ft_pipeline.settings.checks import MACRO_F1
from ft_pipeline.settings.evaluation import CALL_METRICS

Estimates = dict[str, dict[str, Estimate]]
"""By row name, then by metric."""
Samples = Mapping[str, Sequence[Mapping[str, Any]]]
"""By name of the model, its records in samples.parquet (or general.parquet, tasks.parquet), in the same item order."""

RATIOS = {
    "nats_per_byte": ("content_nats", "content_bytes"),
    "loss": ("loss_sum", "answer_tokens"),
    "length_ratio": ("answer_bytes", "content_bytes"),
}
"""Metrics that are a sum over all items divided by another one: the two columns of samples.parquet."""
_MEANS = ("stop_nats", *ANSWER_METRICS, "format_valid", "fields_match")
"""Metrics that are a mean over all items."""
_CONTINUOUS = ("chrf", "rouge_l", "stop_nats")
"""Metrics that are no rates, even if all their values are 0 or 1."""


def estimate_all(models: Sequence[ScoredModel], samples: Samples, own_metrics: Mapping[str, Metric]) -> Estimates:
    """Return the estimates of all models. own_metrics: the metrics of the project, which are means over the items.

    A model lacks a metric that it has no values of: those behind an endpoint give no likelihoods.
    """
    estimates = estimate_samples(samples, own_metrics)
    _add_general(estimates, models)
    _add_tasks(estimates, models)
    return estimates


def estimate_samples(samples: Samples, own_metrics: Mapping[str, Metric]) -> Estimates:
    """Return the estimates that are computed from the test items. Arguments as in estimate_all."""
    estimates: Estimates = {name: {} for name in samples}
    conversations = Conversations([unit_of(sample) for sample in next(iter(samples.values()))])
    for metric, (numerator, denominator) in RATIOS.items():
        if measured := _with_values(samples, numerator):
            ratios = conversations.ratios(_matrix(measured, numerator), _matrix(measured, denominator))
            _add(estimates, metric, measured, ratios)
    metrics = {**METRICS, **own_metrics}
    for metric in dict.fromkeys((*_MEANS, *(name for name in own_metrics if name not in RATIOS))):
        if measured := _with_values(samples, metric):
            means = _means(conversations, metric, _matrix(measured, metric), metrics[metric].highest)
            _add(estimates, metric, measured, means)
    _add_macro_f1(estimates, samples, own_metrics, conversations)
    _add_calls(estimates, samples)
    return estimates


def item_value(metric_name: str, sample: Mapping[str, Any]) -> float | None:
    """Return a metric of one answer; None if it is unknown. Of macro-F1, which no single answer has: whether its label
    is right."""
    metric_name = metric_name.removesuffix(f"/{MACRO_F1}")
    numerator, denominator = RATIOS.get(metric_name, (metric_name, None))
    if sample.get(numerator) is None or (metric_name in CALL_METRICS and not sample[CALL_ITEMS]):
        return None
    return float(sample[numerator]) / (1.0 if denominator is None else max(1.0, float(sample[denominator])))


def item_gains(samples: Samples, rows: tuple[str, str], metric_name: str, metric: Metric) -> list[float]:
    """Return how much each item gains from the first row to the second; negative: it regressed."""
    pairs = zip(*(samples[name] for name in rows), strict=True)
    return [
        metric.gain(*(item_value(metric_name, sample) or 0.0 for sample in before_and_after))
        for before_and_after in pairs
    ]


def rank(metric: Metric, metric_name: str, estimates: Estimates) -> list[str]:
    """Return the names of the models that have the metric, best first, ties by name; then the others by name."""
    measured = [name for name in estimates if metric_name in estimates[name]]
    ranked = sorted(measured, key=lambda name: (metric.rank_key(estimates[name][metric_name].value), name))
    return ranked + sorted(set(estimates) - set(measured))


def is_measured(metric: str, estimates: Estimates) -> bool:
    """Return whether some model has the metric."""
    return any(metric in by_metric for by_metric in estimates.values())


def _with_values(samples: Samples, column: str) -> Samples:
    """Return the samples of the models that have values in a column, which older scores may lack."""
    return {
        name: records for name, records in samples.items() if all(record.get(column) is not None for record in records)
    }


def _add_macro_f1(estimates: Estimates, samples: Samples, metrics: Iterable[str], conversations: Conversations) -> None:
    """Replace macro-F1, a value per answer, by what it is made of: the labels of references and answers."""
    for metric in (name for name in metrics if name.endswith(f"/{MACRO_F1}")):
        expected, found = (metric.removesuffix(MACRO_F1) + name for name in (EXPECTED, FOUND))
        for name, records in _with_values(_with_values(samples, expected), found).items():
            labels = ([record[column] for record in records] for column in (expected, found))
            estimates[name][metric] = conversations.macro_f1(*labels)


def _add_calls(estimates: Estimates, samples: Samples) -> None:
    """Add the metrics of calls of tools, over the conversations that have them."""
    with_tools = {
        name: [record for record in records if record[CALL_ITEMS]]
        for name, records in _with_values(samples, CALL_ITEMS).items()
    }
    if not any(with_tools.values()):
        return
    conversations = Conversations([unit_of(record) for record in next(iter(with_tools.values()))])
    for metric in CALL_METRICS:
        _add(estimates, metric, with_tools, conversations.means(_matrix(with_tools, metric), is_rate=True))


def _add_general(estimates: Estimates, models: Sequence[ScoredModel]) -> None:
    """Add the general suite for the models that were scored on it. Each question and each text is a separate group."""
    general = {model.name: model.records("general.parquet") for model in models if model.row["general"]}
    if questions := _select(general, "kind", "question"):
        accuracies = _each_item(questions).means(_matrix(questions, "correct"), is_rate=True)
        _add(estimates, "general_accuracy", questions, accuracies)
    texts = _select(general, "kind", "text")
    for metric, size in (("general_nats_per_byte", "bytes"), ("general_loss", "tokens")):
        if measured := _with_values(texts, size):
            losses = _each_item(measured).ratios(_matrix(measured, "loss_sum"), _matrix(measured, size))
            _add(estimates, metric, measured, losses)
            return  # the loss per token is that of older scores


def _add_tasks(estimates: Estimates, models: Sequence[ScoredModel]) -> None:
    """Add the lm-eval tasks for the models that ran them. Each document is a separate group."""
    tasks = {model.name: model.records("tasks.parquet") for model in models}
    for metric in sorted({record["metric"] for records in tasks.values() for record in records}):
        documents = _select(tasks, "metric", metric)
        _add(estimates, metric, documents, _means(_each_item(documents), metric, _matrix(documents, "value")))


def _select(records: Samples, column: str, value: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the records with this value, by model. Models without such a record are left out."""
    selected = {name: [entry for entry in entries if entry[column] == value] for name, entries in records.items()}
    return {name: entries for name, entries in selected.items() if entries}


def _means(
    conversations: Conversations, metric: str, values: np.ndarray, highest: float | None = None
) -> list[Estimate]:
    """Return the means of a metric, one per column. It is a rate if every value is 0 or 1, as those of "right or wrong"
    in a task or in a function of the user are."""
    is_rate = metric not in _CONTINUOUS and bool(np.isin(values, (0.0, 1.0)).all())
    return conversations.means(values, is_rate=is_rate, highest=highest)


def _each_item(records: Samples) -> Conversations:
    """Return the items of the records as conversations of their own."""
    return Conversations([record["item"] for record in next(iter(records.values()))])


def _matrix(records: Samples, column: str) -> np.ndarray:
    """Return a column of all models' records as an array of shape (items, models)."""
    return np.array([[float(record[column]) for record in entries] for entries in records.values()]).T


def _add(estimates: Estimates, metric: str, names: Iterable[str], metric_estimates: Sequence[Estimate]) -> None:
    """Add the estimates of a metric to those of the named models, in the same order."""
    for name, estimate in zip(names, metric_estimates, strict=True):
        estimates[name][metric] = estimate
