"""Compare every model and every prompt, from their scores and samples.

No model is loaded. Only models with the same evaluation fingerprint are compared; the others are listed under
`left_out` with the parts that differ. The same inputs give the same document.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.contaminated_models import contaminated_models
from ft_pipeline.evaluation.comparison.costs import break_even, with_costs
from ft_pipeline.evaluation.comparison.forgetting import forgetting_by_model
from ft_pipeline.evaluation.comparison.kept_leads import DEFAULT_SHARE, kept_leads
from ft_pipeline.evaluation.comparison.leads import (
    Conversations,
    Estimate,
    difference,
    distance_from_ideal,
    interval,
    p_value,
    values_over,
)
from ft_pipeline.evaluation.comparison.markdown import markdown_table
from ft_pipeline.evaluation.comparison.rails import judge_answers
from ft_pipeline.evaluation.comparison.recipe_leads import recipe_leads
from ft_pipeline.evaluation.comparison.records import (
    RULES,
    Changes,
    Comparison,
    ComparisonRow,
    ItemChange,
    LeadTest,
    LeftOut,
    PairedDifference,
    QuantizationError,
    ScoredAnswer,
)
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel, comparable_models
from ft_pipeline.evaluation.comparison.sweep_results import drop_sweep_members, learning_curves, seed_spread
from ft_pipeline.evaluation.metrics.definitions import ANSWER_METRICS, METRICS, Metric
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED

Estimates = dict[str, dict[str, Estimate]]
"""By row name, then by metric."""
Experiments = Mapping[str, Mapping[str, Any]]
"""By experiment, facts about its training, as read_training_facts returns them. Only `took`, `noise` and `train_rows`
are used, and each may be absent."""
Samples = Mapping[str, Sequence[Mapping[str, Any]]]
"""By name of the model, its records in samples.parquet (or general.parquet, tasks.parquet), in the same item order."""
Metrics = Mapping[str, Metric]
"""Every metric of this comparison, in display order."""

DEFAULT_MARGIN = 0.05
"""The forgetting margin of a comparison that names none."""
WORST = 5
"""Maximum number of regressions in the document, the worst first."""
_RATIOS = {"loss": ("loss_sum", "answer_tokens"), "length_ratio": ("generated_tokens", "answer_tokens")}
"""Metrics that are a sum over all items divided by another one: the two columns of samples.parquet."""
_MEANS = (*ANSWER_METRICS, "format_valid")
"""Metrics that are a mean over all items."""
_CONTINUOUS = ("chrf", "rouge_l")
"""Metrics that are no rates, even if all their values are 0 or 1."""


def build_comparison(
    inputs: Mapping[str, Path], config: Mapping[str, Any], out: Path, experiments: Experiments | None = None
) -> dict[str, Any]:
    """Write comparison.json, comparison.md and samples.parquet (all answers, by row name) to `out`.

    inputs: see scored_models.read_scored_models. config: primary_metric. Optional: champion (its record: name,
    experiment, fingerprint, base_model), fingerprint (the evaluation to compare; default: the most common), prices
    (CostSettings), forgetting_margin, bases (see forgetting_by_model), rails (the ceilings of rails.judge_answers),
    keeps (see kept_leads), stale (sweep members that were not trained again with the rest of their sweep) and
    contaminated (see contaminated_models).
    Returns the summary: the compared rows, the best row, the rows left out.
    """
    comparison = compare(inputs, config, experiments)
    document = comparison.to_json()
    (out / "comparison.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    (out / "comparison.md").write_text(markdown_table(comparison), encoding="utf-8")
    models, _ = comparable_models(inputs, config)
    samples = [
        {**sample, "name": model.name}
        for model in drop_sweep_members(models)
        for sample in model.records("samples.parquet")
    ]
    pq.write_table(pa.Table.from_pylist(samples), out / "samples.parquet")
    return {
        "rows": [row.name for row in comparison.rows],
        "best": comparison.rows[0].name,
        **{key: document[key] for key in ("left_out", "test_rows", "test_items", "primary_metric")},
    }


def compare(
    inputs: Mapping[str, Path], config: Mapping[str, Any], experiments: Experiments | None = None
) -> Comparison:
    """Return the comparison. Arguments as in build_comparison.

    Raises UserError if nothing was scored, if models were scored on different items, or if the primary metric is
    missing.
    """
    models, left_out = comparable_models(inputs, config)
    contaminated = contaminated_models(config)
    row_models = {model.name: model for model in drop_sweep_members(models)}
    if not row_models:
        raise UserError(
            " ".join(entry.describe() for entry in contaminated)
            or "There are no scores to compare yet. Materialize prompt_baseline and scores, or run `ft run`."
        )
    samples = {model.name: model.records("samples.parquet") for model in models}
    _check_items(samples)
    custom_metrics = {name: Metric(**fields) for model in models for name, fields in model.own_metrics.items()}
    metrics = METRICS | custom_metrics
    primary = config["primary_metric"]
    if primary not in metrics:
        raise UserError(f"promotion.metric {primary!r} is not in these scores, which are older. Run `ft run`.")
    all_estimates = _estimate(models, samples, [*_MEANS, *custom_metrics])
    estimates = {name: all_estimates[name] for name in row_models}
    ranked = [row_models[name] for name in _rank(metrics[primary], primary, estimates)]
    facts = experiments or {}
    train_rows = {name: entry["train_rows"] for name, entry in facts.items() if "train_rows" in entry}
    margin = config.get("forgetting_margin", DEFAULT_MARGIN)
    forgetting = forgetting_by_model(models, all_estimates, _bases(models, config), margin)
    rows = [
        replace(
            row, forgetting=forgetting.get(row.name), rails=judge_answers(samples[row.name], config.get("rails", {}))
        )
        for row in _rows(ranked, estimates, metrics, facts, config.get("prices", {}))
    ]
    first_samples = next(iter(samples.values()))
    comparison = Comparison(
        test_rows=len({sample["group"] for sample in first_samples}),
        test_items=len(first_samples),
        primary_metric=primary,
        metrics={name: metric for name, metric in metrics.items() if _is_measured(name, estimates)},
        rows=rows,
        pairs=_pairs(primary, estimates, metrics),
        break_even=break_even(rows),
        seeds=seed_spread(models, all_estimates),
        learning_curves=learning_curves(models, all_estimates, train_rows, (primary, metrics[primary])),
        quantization_noise=_quantization_errors(facts),
        changes=_changes(metrics[primary], primary, ranked, samples),
        fingerprint=models[0].row["fingerprint"],
        evaluation=models[0].parts,
        left_out=left_out + [LeftOut(name, name, None, ["training"]) for name in config.get("stale", ())],
        champion=_compared_champion(config.get("champion")),
        rules=RULES,
        contaminated=contaminated,
    )
    return replace(
        comparison,
        kept_leads=kept_leads(comparison, estimates, config.get("keeps", DEFAULT_SHARE)),
        lead_tests=_lead_tests(comparison, estimates),
        recipe_leads=recipe_leads(comparison, models, all_estimates),
    )


def _compared_champion(champion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the champion as the document shows it."""
    hidden = {"contaminated", "base_model"}
    return None if champion is None else {key: value for key, value in champion.items() if key not in hidden}


def _bases(models: Sequence[ScoredModel], config: Mapping[str, Any]) -> dict[str, str]:
    """Return input → fingerprint of the base model that its models come from, as far as it is known."""
    bases, champion = dict(config.get("bases", {})), config.get("champion") or {}
    if base := champion.get("base_model"):
        bases |= {model.source: base for model in models if model.kind == "champion"}
    return bases


def _check_items(samples: Samples) -> None:
    """Raise UserError if the models were not scored on the same items."""
    first = next(iter(samples))
    items = [sample["item"] for sample in samples[first]]
    for name, model_samples in samples.items():
        if [sample["item"] for sample in model_samples] != items:
            raise UserError(f"{name} was not scored on the items of {first}. Score it again with `ft run --force`.")


def _is_measured(metric: str, estimates: Estimates) -> bool:
    return any(metric in by_metric for by_metric in estimates.values())


def _quantization_errors(facts: Experiments) -> dict[str, list[QuantizationError]]:
    """Return the quantization errors of the experiments in which they were measured."""
    return {
        name: [QuantizationError.from_json(error) for error in entry["noise"]]
        for name, entry in sorted(facts.items())
        if entry.get("noise")
    }


def _estimate(models: Sequence[ScoredModel], samples: Samples, mean_metrics: Sequence[str]) -> Estimates:
    """Return the estimates of all models. mean_metrics: the metrics that are means over the items."""
    first_samples = next(iter(samples.values()))
    estimates: Estimates = {model.name: {} for model in models}
    conversations = Conversations([sample["group"] for sample in first_samples])
    for metric, (numerator, denominator) in _RATIOS.items():
        # The loss of a teacher at an endpoint is unknown.
        with_values = {name: records for name, records in samples.items() if records[0][numerator] is not None}
        if with_values:
            ratios = conversations.ratios(_matrix(with_values, numerator), _matrix(with_values, denominator))
            _add(estimates, metric, with_values, ratios)
    for metric in mean_metrics:
        if metric in first_samples[0]:  # then all models have it: they share one fingerprint
            _add(estimates, metric, samples, _means(conversations, metric, _matrix(samples, metric)))
    _add_general(estimates, models)
    _add_tasks(estimates, models)
    return estimates


def _add_general(estimates: Estimates, models: Sequence[ScoredModel]) -> None:
    """Add the general suite for the models that were scored on it. Each question and each text is a separate group."""
    general = {model.name: model.records("general.parquet") for model in models if model.row["general"]}
    if questions := _select(general, "kind", "question"):
        accuracies = _each_item(questions).means(_matrix(questions, "correct"), is_rate=True)
        _add(estimates, "general_accuracy", questions, accuracies)
    if texts := _select(general, "kind", "text"):
        losses = _each_item(texts).ratios(_matrix(texts, "loss_sum"), _matrix(texts, "tokens"))
        _add(estimates, "general_loss", texts, losses)


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


def _means(conversations: Conversations, metric: str, values: np.ndarray) -> list[Estimate]:
    """Return the means of a metric, one per column. It is a rate if every value is 0 or 1, as those of "right or wrong"
    in a task or in a function of the user are."""
    is_rate = metric not in _CONTINUOUS and bool(np.isin(values, (0.0, 1.0)).all())
    return conversations.means(values, is_rate=is_rate)


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


def _rank(metric: Metric, metric_name: str, estimates: Estimates) -> list[str]:
    """Return the names of the models that have the metric, best first, ties by name; then the others by name."""
    measured = [name for name in estimates if metric_name in estimates[name]]
    ranked = sorted(measured, key=lambda name: (metric.rank_key(estimates[name][metric_name].value), name))
    return ranked + sorted(set(estimates) - set(measured))


def _pairs(primary: str, estimates: Estimates, metrics: Metrics) -> list[PairedDifference]:
    """Return the paired difference of every two models in every metric, the primary metric first."""
    pairs = []
    for metric_name in [primary, *(name for name in metrics if name != primary)]:
        metric = metrics[metric_name]
        measured = {name: by_metric for name, by_metric in estimates.items() if metric_name in by_metric}
        ranked = _rank(metric, metric_name, measured)
        rank_estimates = {name: distance_from_ideal(measured[name][metric_name], metric.ideal) for name in ranked}
        for better, worse in combinations(ranked, 2):
            lead = difference(rank_estimates[better], rank_estimates[worse], lower_is_better=metric.lower_is_better)
            pairs.append(PairedDifference(better, worse, metric_name, *lead))
    return pairs


def _lead_tests(comparison: Comparison, estimates: Estimates) -> list[LeadTest]:
    """Return the test of each lead of a row that may be released, on the primary metric."""
    name, metric = comparison.primary_metric, comparison.metric()
    return [
        LeadTest(row.name, rival.name, p_value(values_over(rival.name, row.name, name, metric, estimates)))
        for row, rival in combinations(comparison.ranked(), 2)  # the first one of a pair leads
        if row.kind in (*TUNED, "prompt")
    ]


def _rows(
    ranked: Sequence[ScoredModel],
    estimates: Estimates,
    metrics: Metrics,
    facts: Experiments,
    prices: Mapping[str, Any],
) -> list[ComparisonRow]:
    """Return the rows of the comparison, with costs, in the order of `ranked`."""
    return [
        with_costs(
            _row(model, estimates[model.name], metrics), facts.get(model.experiment or "", {}).get("took"), prices
        )
        for model in ranked
    ]


def _row(model: ScoredModel, estimates: Mapping[str, Estimate], metrics: Metrics) -> ComparisonRow:
    """Return the model's row, without costs."""
    row, facts = model.row, model.row["model"]
    return ComparisonRow(
        name=model.name,
        kind=model.kind,
        experiment=model.experiment,
        technique=facts.get("technique"),
        passages=facts.get("passages", 0),
        scores={metric: interval(estimates[metric]) for metric in metrics if metric in estimates},
        prompt_tokens_per_call=row["prompt_tokens_per_call"],
        generated_tokens_per_call=row["generated_tokens_per_call"],
        seconds_per_call=row["seconds_per_call"],
        cut_off=row["cut_off"],
        cost_per_call=row.get("cost_per_call"),
        trainable_params=facts.get("trainable_params", 0),
        general=row["general"],
        fingerprint=row["fingerprint"],
        computed_in=row.get("computed_in"),
        source=model.source,
        source_row=row["name"],
    )


# --- item by item -----------------------------------------------------------------------------------------------------


def _changes(metric: Metric, metric_name: str, ranked: Sequence[ScoredModel], samples: Samples) -> Changes | None:
    """Return improvements and regressions per test item, from the best baseline to the best tuned model.

    None if either is missing.
    """
    before = next((model.name for model in ranked if model.kind in BASELINES), None)
    after = next((model.name for model in ranked if model.kind in TUNED), None)
    if before is None or after is None:
        return None
    pairs = zip(samples[before], samples[after], strict=True)
    changes = [_change(metric, metric_name, old, new) for old, new in pairs]
    threshold = metric.worth_noticing
    changes.sort(key=lambda change: (change.gain, change.item))
    return Changes(
        before,
        after,
        metric_name,
        improved=sum(change.gain > threshold for change in changes),
        unchanged=sum(abs(change.gain) <= threshold for change in changes),
        regressed=sum(change.gain < -threshold for change in changes),
        worst=[change for change in changes[:WORST] if change.gain < -threshold],
    )


def _change(metric: Metric, metric_name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> ItemChange:
    """Return the change of one test item. old, new: its samples before and after tuning."""
    before, after = (ScoredAnswer(item_value(metric_name, sample), sample["answer"]) for sample in (old, new))
    gain = metric.gain(before.value, after.value)
    return ItemChange(new["item"], gain, new["prompt"], new["reference"], before, after)


def item_value(metric_name: str, sample: Mapping[str, Any]) -> float:
    """Return a metric of one answer."""
    if metric_name in _RATIOS:
        numerator, denominator = _RATIOS[metric_name]
        return float(sample[numerator]) / float(sample[denominator])
    return float(sample[metric_name])
