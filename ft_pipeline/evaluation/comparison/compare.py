"""Every model and every prompt in one table: the document of `ft compare --json`, computed from samples.

Nothing here loads a model. Only rows with the same evaluation fingerprint are compared; the others are listed under
`left_out` with what differs. The same inputs give the same document.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.bootstrap import Bootstrap, Estimate, difference, interval, judged
from ft_pipeline.evaluation.comparison.costs import break_even, with_costs
from ft_pipeline.evaluation.comparison.markdown import markdown_table
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel, comparable, read_scored_models
from ft_pipeline.evaluation.comparison.sweep_results import learning_curves, seed_spread, without_sweep_members
from ft_pipeline.evaluation.metrics.definitions import ANSWER_METRICS, METRICS, Metric
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED

Document = dict[str, Any]
Estimates = dict[str, dict[str, Estimate]]
"""By row name, by metric."""
Experiments = Mapping[str, Mapping[str, Any]]
"""By name, what is known of an experiment beside its scores: `took` (costs.training_time), `noise` (the table of its
merged model), `train_rows`."""
Metrics = Mapping[str, Metric]
"""Every metric of this comparison, in the order in which it is shown."""

WORST = 5
"""How many of the worst regressions are shown."""
_RATIOS = {"loss": ("loss_sum", "answer_tokens"), "length_ratio": ("generated_tokens", "answer_tokens")}
_MEANS = (*ANSWER_METRICS, "format_valid")


def build_comparison(
    inputs: Mapping[str, Path], config: Mapping[str, Any], out: Path, experiments: Experiments | None = None
) -> dict[str, Any]:
    """Write comparison.json, comparison.md and samples.parquet (all answers, by row name) to `out`.

    inputs: see contenders.read_contenders. config: bootstrap_resamples, seed, primary_metric; optionally champion (its
    record: name, experiment, fingerprint), fingerprint (the evaluation to compare; the commonest without it) and prices
    (CostSettings); stale: experiments of a series that was trained anew without them.
    Returns the summary: what was compared, the best row, what was left out.
    """
    document = compare(inputs, config, experiments)
    (out / "comparison.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    (out / "comparison.md").write_text(markdown_table(document), encoding="utf-8")
    chosen, _ = comparable(read_scored_models(inputs, config.get("champion")), config.get("fingerprint"))
    records = [
        {**record, "name": one.name}
        for one in without_sweep_members(chosen)
        for record in one.records("samples.parquet")
    ]
    pq.write_table(pa.Table.from_pylist(records), out / "samples.parquet")
    return {
        "rows": [row["name"] for row in document["rows"]],
        "best": document["rows"][0]["name"],
        "left_out": document["left_out"],
        **{key: document[key] for key in ("test_rows", "test_items", "primary_metric")},
    }


def compare(inputs: Mapping[str, Path], config: Mapping[str, Any], experiments: Experiments | None = None) -> Document:
    """The document of `ft compare --json`; arguments as in build_comparison. UserError where nothing was scored."""
    contenders = read_scored_models(inputs, config.get("champion"))
    chosen, left_out = comparable(contenders, config.get("fingerprint"))
    if not without_sweep_members(chosen):
        raise UserError("there are no scores to compare yet; materialize prompt_baseline and scores, or run `ft run`")
    samples = {one.name: one.records("samples.parquet") for one in chosen}
    _check_items(samples)
    own = {name: Metric(**each) for one in chosen for name, each in one.own_metrics.items()}
    metrics = METRICS | own
    primary = config["primary_metric"]
    if primary not in metrics:
        raise UserError(f"promotion.metric {primary!r} is not in these scores, which are older: run `ft run`")
    estimates = _estimates(chosen, samples, [*_MEANS, *own], config)
    by_name = {one.name: one for one in without_sweep_members(chosen)}
    measured, estimates = estimates, {name: estimates[name] for name in by_name}
    ranked = _ranking(metrics[primary], primary, estimates)
    prices, about = config.get("prices", {}), experiments or {}
    trained_on = {name: known["train_rows"] for name, known in about.items() if "train_rows" in known}
    rows = [
        with_costs(_row(one, estimates[name], metrics), about.get(one.experiment or "", {}).get("took"), prices)
        for name, one in ((name, by_name[name]) for name in ranked)
    ]
    some = next(iter(samples.values()))
    return {
        "test_rows": len({sample["group"] for sample in some}),
        "test_items": len(some),
        "primary_metric": primary,
        "metrics": {name: vars(metric) for name, metric in metrics.items() if _measured(name, estimates)},
        "rows": rows,
        "pairs": _pairs(primary, estimates, metrics),
        "break_even": break_even(rows),
        "seeds": seed_spread(chosen, measured),
        "learning_curves": learning_curves(chosen, measured, trained_on, (primary, metrics[primary])),
        "quantization_noise": {name: known["noise"] for name, known in sorted(about.items()) if known.get("noise")},
        "changes": _changes(metrics[primary], primary, [by_name[name] for name in ranked], samples),
        "fingerprint": chosen[0].row["fingerprint"],
        "evaluation": chosen[0].parts,
        "left_out": left_out + [_stale(name) for name in config.get("stale", ())],
        "champion": config.get("champion"),
    }


def _stale(experiment: str) -> dict[str, Any]:
    return {"name": experiment, "experiment": experiment, "fingerprint": None, "differs_in": ["training"]}


def _check_items(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    first = next(iter(samples))
    wanted = [sample["item"] for sample in samples[first]]
    for name, records in samples.items():
        if [record["item"] for record in records] != wanted:
            raise UserError(f"{name} was not scored on the items of {first}; score it again: ft run --force")


def _measured(metric: str, estimates: Estimates) -> bool:
    return any(metric in found for found in estimates.values())


def _estimates(
    chosen: Sequence[ScoredModel],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    means: Sequence[str],
    config: Mapping[str, Any],
) -> Estimates:
    """means: the metrics that are a mean over the items."""
    resamples, seed = config["bootstrap_resamples"], config["seed"]
    estimates: Estimates = {one.name: {} for one in chosen}
    draws = Bootstrap([sample["group"] for sample in next(iter(samples.values()))], resamples, seed)
    for metric, (numerator, denominator) in _RATIOS.items():
        known = {name: records for name, records in samples.items() if records[0][numerator] is not None}
        if known:  # nobody knows the loss of a hosted teacher
            found = draws.ratios(_columns(known, numerator), _columns(known, denominator))
            _put(estimates, list(known), metric, found)
    for metric in means:
        if metric in next(iter(samples.values()))[0]:  # the same for all: one fingerprint
            _put(estimates, list(samples), metric, draws.means(_columns(samples, metric)))
    _add_general(estimates, chosen, resamples, seed)
    _add_tasks(estimates, chosen, resamples, seed)
    return estimates


def _add_general(estimates: Estimates, chosen: Sequence[ScoredModel], resamples: int, seed: int) -> None:
    """The general suite, for the rows that were scored on it; each question and each text stands for itself."""
    records = {one.name: one.records("general.parquet") for one in chosen if one.row["general"]}
    for kind, metric in (("question", "general_accuracy"), ("text", "general_loss")):
        of_kind = {name: [record for record in found if record["kind"] == kind] for name, found in records.items()}
        of_kind = {name: found for name, found in of_kind.items() if found}
        if not of_kind:
            continue
        names = list(of_kind)
        draws = Bootstrap([record["item"] for record in of_kind[names[0]]], resamples, seed)
        if kind == "question":
            _put(estimates, names, metric, draws.means(_columns(of_kind, "correct")))
        else:
            _put(estimates, names, metric, draws.ratios(_columns(of_kind, "loss_sum"), _columns(of_kind, "tokens")))


def _add_tasks(estimates: Estimates, chosen: Sequence[ScoredModel], resamples: int, seed: int) -> None:
    """lm-eval's own tasks, for the rows that ran them; each document stands for itself."""
    records = {one.name: one.records("tasks.parquet") for one in chosen}
    for metric in sorted({record["metric"] for found in records.values() for record in found}):
        having = {
            name: mine
            for name, found in records.items()
            if (mine := [record for record in found if record["metric"] == metric])
        }
        draws = Bootstrap([record["item"] for record in next(iter(having.values()))], resamples, seed)
        _put(estimates, list(having), metric, draws.means(_columns(having, "value")))


def _columns(records: Mapping[str, Sequence[Mapping[str, Any]]], column: str) -> np.ndarray:
    """Shape (items, rows)."""
    return np.array([[float(record[column]) for record in found] for found in records.values()]).T


def _put(estimates: Estimates, names: Sequence[str], metric: str, found: Sequence[Estimate]) -> None:
    for name, estimate in zip(names, found, strict=True):
        estimates[name][metric] = estimate


def _ranking(metric: Metric, name: str, estimates: Estimates) -> list[str]:
    """The rows that have the metric, best first, ties by name; then the others by name."""
    having = [row for row in estimates if name in estimates[row]]
    sign = 1 if metric.lower_is_better else -1
    ranked = sorted(having, key=lambda row: (sign * judged(estimates[row][name], metric.ideal).value, row))
    return ranked + sorted(set(estimates) - set(having))


def _pairs(primary: str, estimates: Estimates, metrics: Metrics) -> list[dict[str, Any]]:
    pairs = []
    for name in [primary, *(other for other in metrics if other != primary)]:
        metric = metrics[name]
        ranked = [row for row in _ranking(metric, name, estimates) if name in estimates[row]]
        by_row = {row: judged(estimates[row][name], metric.ideal) for row in ranked}
        for position, better in enumerate(ranked):
            for worse in ranked[position + 1 :]:
                lead = difference(by_row[better], by_row[worse], lower_is_better=metric.lower_is_better)
                pairs.append({"better": better, "worse": worse, "metric": name, **lead})
    return pairs


def _row(contender: ScoredModel, estimates: Mapping[str, Estimate], metrics: Metrics) -> dict[str, Any]:
    row = contender.row
    costs = ("prompt_tokens_per_call", "generated_tokens_per_call", "seconds_per_call", "cut_off")
    return {
        "name": contender.name,
        "kind": contender.kind,
        "experiment": contender.experiment,
        "technique": row["model"].get("technique"),
        "passages": row["model"].get("passages", 0),
        "scores": {metric: interval(estimates[metric]) for metric in metrics if metric in estimates},
        **{key: row[key] for key in costs},
        "cost_per_call": row.get("cost_per_call"),
        "trainable_params": row["model"].get("trainable_params", 0),
        "general": row["general"],
        "fingerprint": row["fingerprint"],
        "computed_in": row.get("computed_in"),  # None: scored by a server, or before it was recorded
        "source": contender.source,
        "source_row": row["name"],
    }


# --- item by item -----------------------------------------------------------------------------------------------------


def _changes(
    metric: Metric, name: str, ranked: Sequence[ScoredModel], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any] | None:
    """Improvements and regressions per test item, from the best untouched row to the best tuned one; None without."""
    before = next((one.name for one in ranked if one.kind in BASELINES), None)
    after = next((one.name for one in ranked if one.kind in TUNED), None)
    if before is None or after is None:
        return None
    changes = [_change(metric, name, old, new) for old, new in zip(samples[before], samples[after], strict=True)]
    least = metric.worth_noticing
    changes.sort(key=lambda change: (change["gain"], change["item"]))
    return {
        "before": before,
        "after": after,
        "metric": name,
        "improved": sum(change["gain"] > least for change in changes),
        "unchanged": sum(abs(change["gain"]) <= least for change in changes),
        "regressed": sum(change["gain"] < -least for change in changes),
        "worst": [change for change in changes[:WORST] if change["gain"] < -least],
    }


def _change(metric: Metric, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`gain` is positive where the tuned model does better."""
    values = [item_value(name, sample) for sample in (old, new)]
    return {
        "item": new["item"],
        "gain": (values[0] - values[1]) if metric.lower_is_better else (values[1] - values[0]),
        "prompt": new["prompt"],
        "reference": new["reference"],
        "before": {"value": values[0], "answer": old["answer"]},
        "after": {"value": values[1], "answer": new["answer"]},
    }


def item_value(metric: str, sample: Mapping[str, Any]) -> float:
    """A metric of one answer, by its name."""
    if metric in _RATIOS:
        numerator, denominator = _RATIOS[metric]
        return float(sample[numerator]) / float(sample[denominator])
    return float(sample[metric])
