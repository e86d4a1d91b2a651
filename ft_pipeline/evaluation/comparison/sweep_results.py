"""Trainings beside an experiment, in a comparison: how far other seeds lie apart, and what more rows brought.

They are no rows of their own: whoever picks the best of several seeds picks luck.
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
    """The contenders that are rows: not those that were trained beside another."""
    return [one for one in contenders if not _beside(one)]


def seed_spread(contenders: Sequence[ScoredModel], estimates: Estimates) -> list[dict[str, Any]]:
    """Per tuned row that was trained with several seeds: for each metric `mean`, `min`, `max` and the `values`, the
    experiment's own first."""
    found = []
    for own, others in _series(contenders):
        seeds = [own, *(one for one in others if share_of(one.experiment or "") is None)]
        if len(seeds) < 2:
            continue
        scores = {}
        for metric in (each for each in estimates[own.name] if all(each in estimates[one.name] for one in seeds)):
            values = [estimates[one.name][metric].value for one in seeds]
            scores[metric] = {"mean": fmean(values), "min": min(values), "max": max(values), "values": values}
        found.append({"row": own.name, "experiment": own.experiment, "trainings": len(seeds), "scores": scores})
    return found


def learning_curves(
    contenders: Sequence[ScoredModel], estimates: Estimates, rows: Mapping[str, int], primary: tuple[str, Metric]
) -> list[dict[str, Any]]:
    """Per tuned row that was trained on shares of its rows too: the `points`, fewest rows first, and `last_step`, what
    the last more rows gained on the primary metric (positive: better), paired.

    rows: people's training rows, by experiment.
    """
    name, metric = primary
    found = []
    for own, others in _series(contenders):
        shares = {share: one for one in others if (share := share_of(one.experiment or "")) is not None}
        if not shares or name not in estimates[own.name]:
            continue
        points = [shares[share] for share in sorted(shares)] + [own]
        before, last = (judged(estimates[one.name][name], metric.ideal) for one in points[-2:])
        found.append(
            {
                "row": own.name,
                "experiment": own.experiment,
                "points": [_point(one, estimates, rows) for one in points],
                "last_step": {"metric": name, **difference(last, before, lower_is_better=metric.lower_is_better)},
            }
        )
    return found


def worst_seed(spread: Mapping[str, Any], metric_name: str, metric: Metric) -> float:
    """The value of the training that came out worst on a metric."""
    worst, *others = spread["scores"][metric_name]["values"]
    for value in others:
        worst = value if metric.better(worst, value) else worst
    return float(worst)


def spread_in_words(spread: Mapping[str, Any], metric_name: str, metric: Metric) -> str:
    """How far trainings that differ in their seed lie apart, as a sentence."""
    score = spread["scores"][metric_name]
    return (
        f"{spread['row']}, trained with {spread['trainings']} seeds: {metric.label} {score['mean']:.3f} on average, "
        f"{score['min']:.3f} to {score['max']:.3f}."
    )


def curve_in_words(curve: Mapping[str, Any], metric: Metric) -> str:
    """What more rows brought, as a sentence."""
    step = curve["last_step"]
    values = [
        f"{point['scores'][step['metric']]['value']:.3f} on {_amount(point)}"
        for point in curve["points"]
        if step["metric"] in point["scores"]
    ]
    gained = f"{step['difference']:+.3f} (95 %: {step['low']:+.3f} to {step['high']:+.3f}; above zero is better)"
    return f"{curve['row']}, {metric.label}: {', '.join(values)}; the last step brought {gained}."


def rises(curve: Mapping[str, Any]) -> bool:
    """Whether the last more rows clearly helped."""
    return bool(curve["last_step"]["low"] > 0)


def flat(curve: Mapping[str, Any]) -> bool:
    """Whether the last more rows brought no gain at all; a gain that may be chance is neither this nor `rises`."""
    return bool(curve["last_step"]["difference"] <= 0)


def _amount(point: Mapping[str, Any]) -> str:
    return f"{point['share']:.0%} of the rows" if point["rows"] is None else f"{point['rows']:,} rows"


def _series(contenders: Sequence[ScoredModel]) -> list[tuple[ScoredModel, list[ScoredModel]]]:
    """Each tuned row with those of the same kind that were trained beside it."""
    beside = [one for one in contenders if _beside(one)]
    own = [one for one in contenders if one.experiment and one.kind != "champion" and not _beside(one)]
    found = [
        (
            one,
            [each for each in beside if sweep_owner(each.experiment or "") == one.experiment and each.kind == one.kind],
        )
        for one in own
    ]
    return [(one, others) for one, others in found if others]


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
