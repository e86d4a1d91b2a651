"""The sweep members of an experiment in a comparison: the spread between seeds, and the gain from more rows.

Sweep members do not get a row in the comparison: to pick the best of several seeds is to pick luck.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ft_pipeline.evaluation.comparison.bootstrap import Estimate, difference, interval, judged
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.settings.sweep import is_sweep_member, share_of, sweep_owner

Estimates = Mapping[str, Mapping[str, Estimate]]


def without_sweep_members(contenders: Sequence[ScoredModel]) -> list[ScoredModel]:
    """Return the models that get a row in the comparison: all but sweep members."""
    return [model for model in contenders if not _beside(model)]


def seed_spread(contenders: Sequence[ScoredModel], estimates: Estimates) -> list[dict[str, Any]]:
    """Return an entry per tuned row that was trained with several seeds.

    For each metric it has `mean`, `min`, `max` and the `values`, the experiment's value first.
    """
    spreads = []
    for own, others in _series(contenders):
        seeds = [own, *(member for member in others if share_of(member.experiment or "") is None)]
        if len(seeds) < 2:
            continue
        scores = {}
        for metric in (name for name in estimates[own.name] if all(name in estimates[model.name] for model in seeds)):
            values = [estimates[model.name][metric].value for model in seeds]
            scores[metric] = {"mean": fmean(values), "min": min(values), "max": max(values), "values": values}
        spreads.append({"row": own.name, "experiment": own.experiment, "trainings": len(seeds), "scores": scores})
    return spreads


def learning_curves(
    contenders: Sequence[ScoredModel], estimates: Estimates, rows: Mapping[str, int], primary: tuple[str, Metric]
) -> list[dict[str, Any]]:
    """Return a learning curve per tuned row that was also trained on shares of its rows.

    `points`: fewest rows first. `last_step`: the paired difference of the last two points on the primary metric
    (positive: more rows are better).
    rows: training rows written by people, by experiment.
    """
    name, metric = primary
    curves = []
    for own, others in _series(contenders):
        shares = {share: member for member in others if (share := share_of(member.experiment or "")) is not None}
        if not shares or name not in estimates[own.name]:
            continue
        points = [shares[share] for share in sorted(shares)] + [own]
        before, last = (judged(estimates[model.name][name], metric.ideal) for model in points[-2:])
        curves.append(
            {
                "row": own.name,
                "experiment": own.experiment,
                "points": [_point(model, estimates, rows) for model in points],
                "last_step": {"metric": name, **difference(last, before, lower_is_better=metric.lower_is_better)},
            }
        )
    return curves


def worst_seed(spread: Mapping[str, Any], metric_name: str, metric: Metric) -> float:
    """Return the worst value of a metric over the seeds."""
    worst, *others = spread["scores"][metric_name]["values"]
    for value in others:
        worst = value if metric.better(worst, value) else worst
    return float(worst)


def spread_in_words(spread: Mapping[str, Any], metric_name: str, metric: Metric) -> str:
    """Return the spread between trainings that differ only in their seed, as a sentence."""
    score = spread["scores"][metric_name]
    return (
        f"{spread['row']}, trained with {spread['trainings']} seeds: {metric.label} {score['mean']:.3f} on average, "
        f"{score['min']:.3f} to {score['max']:.3f}."
    )


def curve_in_words(curve: Mapping[str, Any], metric: Metric) -> str:
    """Return the gain from more rows as a sentence."""
    step = curve["last_step"]
    values = [
        f"{point['scores'][step['metric']]['value']:.3f} on {_amount(point)}"
        for point in curve["points"]
        if step["metric"] in point["scores"]
    ]
    gained = f"{step['difference']:+.3f} (95 %: {step['low']:+.3f} to {step['high']:+.3f}; above zero is better)"
    return f"{curve['row']}, {metric.label}: {', '.join(values)}; the last step brought {gained}."


def rises(curve: Mapping[str, Any]) -> bool:
    """Return whether the last increase in rows clearly helped."""
    return bool(curve["last_step"]["low"] > 0)


def flat(curve: Mapping[str, Any]) -> bool:
    """Return whether the last increase in rows brought no gain. An uncertain gain is neither `flat` nor `rises`."""
    return bool(curve["last_step"]["difference"] <= 0)


def _amount(point: Mapping[str, Any]) -> str:
    return f"{point['share']:.0%} of the rows" if point["rows"] is None else f"{point['rows']:,} rows"


def _series(contenders: Sequence[ScoredModel]) -> list[tuple[ScoredModel, list[ScoredModel]]]:
    """Return each tuned row with its sweep members of the same kind; rows without members are left out."""
    beside = [model for model in contenders if _beside(model)]
    own = [model for model in contenders if model.experiment and model.kind != "champion" and not _beside(model)]
    series = [
        (
            model,
            [
                member
                for member in beside
                if sweep_owner(member.experiment or "") == model.experiment and member.kind == model.kind
            ],
        )
        for model in own
    ]
    return [(model, members) for model, members in series if members]


def _point(one: ScoredModel, estimates: Estimates, rows: Mapping[str, int]) -> dict[str, Any]:
    experiment = one.experiment or ""
    return {
        "experiment": experiment,
        "share": share_of(experiment) or 1.0,
        "rows": rows.get(experiment),
        "scores": {metric: interval(estimate) for metric, estimate in estimates[one.name].items()},
    }


def _beside(one: ScoredModel) -> bool:
    return one.kind != "champion" and one.experiment is not None and is_sweep_member(one.experiment)
