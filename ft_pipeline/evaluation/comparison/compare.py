"""Compare every model and every prompt, from samples.

No model is loaded. Only rows with the same evaluation fingerprint are compared; the others are listed under `left_out`
with the parts that differ. The same inputs give the same document.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.bootstrap import Bootstrap, Estimate, difference, distance_from_ideal, interval
from ft_pipeline.evaluation.comparison.costs import break_even, with_costs
from ft_pipeline.evaluation.comparison.markdown import markdown_table
from ft_pipeline.evaluation.comparison.records import (
    Changes,
    Comparison,
    ComparisonRow,
    ItemChange,
    LeftOut,
    PairedDifference,
    QuantizationError,
    ScoredAnswer,
)
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel, comparable, read_scored_models
from ft_pipeline.evaluation.comparison.sweep_results import learning_curves, seed_spread, without_sweep_members
from ft_pipeline.evaluation.metrics.definitions import ANSWER_METRICS, METRICS, Metric
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED

Estimates = dict[str, dict[str, Estimate]]
"""By row name, then by metric."""
Experiments = Mapping[str, Mapping[str, Any]]
"""By name, facts about an experiment besides its scores: `took` (costs.training_time), `noise` (the table of its
merged model), `train_rows`."""
Metrics = Mapping[str, Metric]
"""Every metric of this comparison, in display order."""

WORST = 5
"""Number of regressions shown, the worst first."""
_RATIOS = {"loss": ("loss_sum", "answer_tokens"), "length_ratio": ("generated_tokens", "answer_tokens")}
_MEANS = (*ANSWER_METRICS, "format_valid")


def build_comparison(
    inputs: Mapping[str, Path], config: Mapping[str, Any], out: Path, experiments: Experiments | None = None
) -> dict[str, Any]:
    """Write comparison.json, comparison.md and samples.parquet (all answers, by row name) to `out`.

    inputs: see scored_models.read_scored_models. config: bootstrap_resamples, seed, primary_metric. Optional: champion
    (its record: name, experiment, fingerprint), fingerprint (the evaluation to compare; default: the most common),
    prices (CostSettings) and stale (sweep members that were not trained again with the rest of their sweep).
    Returns the summary: the compared rows, the best row, the rows left out.
    """
    comparison = compare(inputs, config, experiments)
    document = comparison.to_json()
    (out / "comparison.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    (out / "comparison.md").write_text(markdown_table(comparison), encoding="utf-8")
    chosen, _ = comparable(read_scored_models(inputs, config.get("champion")), config.get("fingerprint"))
    records = [
        {**record, "name": model.name}
        for model in without_sweep_members(chosen)
        for record in model.records("samples.parquet")
    ]
    pq.write_table(pa.Table.from_pylist(records), out / "samples.parquet")
    return {
        "rows": [row.name for row in comparison.rows],
        "best": comparison.rows[0].name,
        **{key: document[key] for key in ("left_out", "test_rows", "test_items", "primary_metric")},
    }


def compare(
    inputs: Mapping[str, Path], config: Mapping[str, Any], experiments: Experiments | None = None
) -> Comparison:
    """Return the comparison. Arguments as in build_comparison.

    Raises UserError if nothing was scored.
    """
    contenders = read_scored_models(inputs, config.get("champion"))
    chosen, left_out = comparable(contenders, config.get("fingerprint"))
    if not without_sweep_members(chosen):
        raise UserError("There are no scores to compare yet. Materialize prompt_baseline and scores, or run `ft run`.")
    samples = {model.name: model.records("samples.parquet") for model in chosen}
    _check_items(samples)
    own = {name: Metric(**fields) for model in chosen for name, fields in model.own_metrics.items()}
    metrics = METRICS | own
    primary = config["primary_metric"]
    if primary not in metrics:
        raise UserError(f"promotion.metric {primary!r} is not in these scores, which are older. Run `ft run`.")
    estimates = _estimates(chosen, samples, [*_MEANS, *own], config)
    by_name = {model.name: model for model in without_sweep_members(chosen)}
    measured, estimates = estimates, {name: estimates[name] for name in by_name}
    ranked = _ranking(metrics[primary], primary, estimates)
    prices, about = config.get("prices", {}), experiments or {}
    trained_on = {name: known["train_rows"] for name, known in about.items() if "train_rows" in known}
    rows = [
        with_costs(_row(model, estimates[name], metrics), about.get(model.experiment or "", {}).get("took"), prices)
        for name, model in ((name, by_name[name]) for name in ranked)
    ]
    some = next(iter(samples.values()))
    return Comparison(
        test_rows=len({sample["group"] for sample in some}),
        test_items=len(some),
        primary_metric=primary,
        metrics={name: metric for name, metric in metrics.items() if _measured(name, estimates)},
        rows=rows,
        pairs=_pairs(primary, estimates, metrics),
        break_even=break_even(rows),
        seeds=seed_spread(chosen, measured),
        learning_curves=learning_curves(chosen, measured, trained_on, (primary, metrics[primary])),
        quantization_noise={
            name: [QuantizationError.from_json(line) for line in known["noise"]]
            for name, known in sorted(about.items())
            if known.get("noise")
        },
        changes=_changes(metrics[primary], primary, [by_name[name] for name in ranked], samples),
        fingerprint=chosen[0].row["fingerprint"],
        evaluation=chosen[0].parts,
        left_out=left_out + [LeftOut(name, name, None, ["training"]) for name in config.get("stale", ())],
        champion=config.get("champion"),
    )


def _check_items(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    first = next(iter(samples))
    wanted = [sample["item"] for sample in samples[first]]
    for name, records in samples.items():
        if [record["item"] for record in records] != wanted:
            raise UserError(f"{name} was not scored on the items of {first}. Score it again with `ft run --force`.")


def _measured(metric: str, estimates: Estimates) -> bool:
    return any(metric in by_metric for by_metric in estimates.values())


def _estimates(
    chosen: Sequence[ScoredModel],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    means: Sequence[str],
    config: Mapping[str, Any],
) -> Estimates:
    """Return the estimates of all rows. means: the metrics that are means over the items."""
    resamples, seed = config["bootstrap_resamples"], config["seed"]
    estimates: Estimates = {model.name: {} for model in chosen}
    draws = Bootstrap([sample["group"] for sample in next(iter(samples.values()))], resamples, seed)
    for metric, (numerator, denominator) in _RATIOS.items():
        known = {name: records for name, records in samples.items() if records[0][numerator] is not None}
        if known:  # the loss of a hosted teacher is unknown
            ratios = draws.ratios(_columns(known, numerator), _columns(known, denominator))
            _put(estimates, list(known), metric, ratios)
    for metric in means:
        if metric in next(iter(samples.values()))[0]:  # the same for all rows: they share one fingerprint
            _put(estimates, list(samples), metric, draws.means(_columns(samples, metric)))
    _add_general(estimates, chosen, resamples, seed)
    _add_tasks(estimates, chosen, resamples, seed)
    return estimates


def _add_general(estimates: Estimates, chosen: Sequence[ScoredModel], resamples: int, seed: int) -> None:
    """Add the general suite for the rows that were scored on it. Each question and each text is a separate group."""
    records = {model.name: model.records("general.parquet") for model in chosen if model.row["general"]}
    for kind, metric in (("question", "general_accuracy"), ("text", "general_loss")):
        of_kind = {name: [record for record in general if record["kind"] == kind] for name, general in records.items()}
        of_kind = {name: general for name, general in of_kind.items() if general}
        if not of_kind:
            continue
        names = list(of_kind)
        draws = Bootstrap([record["item"] for record in of_kind[names[0]]], resamples, seed)
        if kind == "question":
            _put(estimates, names, metric, draws.means(_columns(of_kind, "correct")))
        else:
            _put(estimates, names, metric, draws.ratios(_columns(of_kind, "loss_sum"), _columns(of_kind, "tokens")))


def _add_tasks(estimates: Estimates, chosen: Sequence[ScoredModel], resamples: int, seed: int) -> None:
    """Add the lm-eval tasks for the rows that ran them. Each document is a separate group."""
    records = {model.name: model.records("tasks.parquet") for model in chosen}
    for metric in sorted({record["metric"] for tasks in records.values() for record in tasks}):
        having = {
            name: of_metric
            for name, tasks in records.items()
            if (of_metric := [record for record in tasks if record["metric"] == metric])
        }
        draws = Bootstrap([record["item"] for record in next(iter(having.values()))], resamples, seed)
        _put(estimates, list(having), metric, draws.means(_columns(having, "value")))


def _columns(records: Mapping[str, Sequence[Mapping[str, Any]]], column: str) -> np.ndarray:
    """Return a column of all rows as an array of shape (items, rows)."""
    return np.array([[float(record[column]) for record in of_row] for of_row in records.values()]).T


def _put(estimates: Estimates, names: Sequence[str], metric: str, found: Sequence[Estimate]) -> None:
    for name, estimate in zip(names, found, strict=True):
        estimates[name][metric] = estimate


def _ranking(metric: Metric, name: str, estimates: Estimates) -> list[str]:
    """Return the names of the rows that have the metric, best first, ties by name; then the others by name."""
    having = [row for row in estimates if name in estimates[row]]
    ranked = sorted(having, key=lambda row: (metric.rank_key(estimates[row][name].value), row))
    return ranked + sorted(set(estimates) - set(having))


def _pairs(primary: str, estimates: Estimates, metrics: Metrics) -> list[PairedDifference]:
    pairs = []
    for name in [primary, *(metric_name for metric_name in metrics if metric_name != primary)]:
        metric = metrics[name]
        ranked = [row for row in _ranking(metric, name, estimates) if name in estimates[row]]
        by_row = {row: distance_from_ideal(estimates[row][name], metric.ideal) for row in ranked}
        for position, better in enumerate(ranked):
            for worse in ranked[position + 1 :]:
                lead = difference(by_row[better], by_row[worse], lower_is_better=metric.lower_is_better)
                pairs.append(PairedDifference(better, worse, name, *lead))
    return pairs


def _row(model: ScoredModel, estimates: Mapping[str, Estimate], metrics: Metrics) -> ComparisonRow:
    row, about = model.row, model.row["model"]
    return ComparisonRow(
        name=model.name,
        kind=model.kind,
        experiment=model.experiment,
        technique=about.get("technique"),
        passages=about.get("passages", 0),
        scores={metric: interval(estimates[metric]) for metric in metrics if metric in estimates},
        prompt_tokens_per_call=row["prompt_tokens_per_call"],
        generated_tokens_per_call=row["generated_tokens_per_call"],
        seconds_per_call=row["seconds_per_call"],
        cut_off=row["cut_off"],
        cost_per_call=row.get("cost_per_call"),
        trainable_params=about.get("trainable_params", 0),
        general=row["general"],
        fingerprint=row["fingerprint"],
        computed_in=row.get("computed_in"),
        source=model.source,
        source_row=row["name"],
    )


# --- item by item -----------------------------------------------------------------------------------------------------


def _changes(
    metric: Metric, name: str, ranked: Sequence[ScoredModel], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Changes | None:
    """Return improvements and regressions per test item, from the best baseline to the best tuned row.

    None if either is missing.
    """
    before = next((model.name for model in ranked if model.kind in BASELINES), None)
    after = next((model.name for model in ranked if model.kind in TUNED), None)
    if before is None or after is None:
        return None
    changes = [_change(metric, name, old, new) for old, new in zip(samples[before], samples[after], strict=True)]
    least = metric.worth_noticing
    changes.sort(key=lambda change: (change.gain, change.item))
    return Changes(
        before,
        after,
        name,
        improved=sum(change.gain > least for change in changes),
        unchanged=sum(abs(change.gain) <= least for change in changes),
        regressed=sum(change.gain < -least for change in changes),
        worst=[change for change in changes[:WORST] if change.gain < -least],
    )


def _change(metric: Metric, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> ItemChange:
    """Return the change of one test item."""
    before, after = (ScoredAnswer(item_value(name, sample), sample["answer"]) for sample in (old, new))
    gain = before.value - after.value if metric.lower_is_better else after.value - before.value
    return ItemChange(new["item"], gain, new["prompt"], new["reference"], before, after)


def item_value(metric: str, sample: Mapping[str, Any]) -> float:
    """Return a metric of one answer, by the metric's name."""
    if metric in _RATIOS:
        numerator, denominator = _RATIOS[metric]
        return float(sample[numerator]) / float(sample[denominator])
    return float(sample[metric])
