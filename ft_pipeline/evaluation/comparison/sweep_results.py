"""The sweep members of an experiment in a comparison: the spread between seeds, and the gain from more rows.

Sweep members do not get a row in the comparison: to pick the best of several seeds is to pick luck.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from ft_pipeline.evaluation.comparison.bootstrap import Estimate, difference, distance_from_ideal, interval
from ft_pipeline.evaluation.comparison.records import CurvePoint, CurveStep, LearningCurve, SeedScores, SeedSpread
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.settings.sweep import is_sweep_member, learning_curve_share, sweep_owner

Estimates = Mapping[str, Mapping[str, Estimate]]


def without_sweep_members(contenders: Sequence[ScoredModel]) -> list[ScoredModel]:
    """Return the models that get a row in the comparison: all but sweep members."""
    return [model for model in contenders if not _is_member(model)]


def seed_spread(contenders: Sequence[ScoredModel], estimates: Estimates) -> list[SeedSpread]:
    """Return an entry per tuned row that was trained with several seeds."""
    spreads = []
    for own, members in _with_members(contenders):
        seeds = [own, *(member for member in members if learning_curve_share(member.experiment or "") is None)]
        if len(seeds) < 2:
            continue
        scores = {}
        for metric in (name for name in estimates[own.name] if all(name in estimates[model.name] for model in seeds)):
            values = [estimates[model.name][metric].value for model in seeds]
            scores[metric] = SeedScores(fmean(values), min(values), max(values), values)
        spreads.append(SeedSpread(own.name, own.experiment or "", len(seeds), scores))
    return spreads


def learning_curves(
    contenders: Sequence[ScoredModel], estimates: Estimates, rows: Mapping[str, int], primary: tuple[str, Metric]
) -> list[LearningCurve]:
    """Return a learning curve per tuned row that was also trained on shares of its rows, on the primary metric.

    rows: training rows written by people, by experiment.
    """
    name, metric = primary
    curves = []
    for own, members in _with_members(contenders):
        shares = {
            share: member for member in members if (share := learning_curve_share(member.experiment or "")) is not None
        }
        if not shares or name not in estimates[own.name]:
            continue
        models = [shares[share] for share in sorted(shares)] + [own]
        before, last = (distance_from_ideal(estimates[model.name][name], metric.ideal) for model in models[-2:])
        step = CurveStep(name, *difference(last, before, lower_is_better=metric.lower_is_better))
        points = [_point(model, estimates, rows) for model in models]
        curves.append(LearningCurve(own.name, own.experiment or "", points, step))
    return curves


def worst_seed(scores: SeedScores, metric: Metric) -> float:
    """Return the worst value of a metric over the seeds."""
    return max(scores.values, key=metric.rank_key)


def spread_in_words(spread: SeedSpread, metric_name: str, metric: Metric) -> str:
    """Return the spread between trainings that differ only in their seed, as a sentence."""
    score = spread.scores[metric_name]
    return (
        f"{spread.row}, trained with {spread.trainings} seeds: {metric.label} {score.mean:.3f} on average, "
        f"{score.min:.3f} to {score.max:.3f}."
    )


def curve_in_words(curve: LearningCurve, metric: Metric) -> str:
    """Return the gain from more rows as a sentence."""
    step = curve.last_step
    values = [
        f"{point.scores[step.metric].value:.3f} on {_amount(point)}"
        for point in curve.points
        if step.metric in point.scores
    ]
    gained = f"{step.difference:+.3f} (95 %: {step.low:+.3f} to {step.high:+.3f}; above zero is better)"
    return f"{curve.row}, {metric.label}: {', '.join(values)}; the gain from the last step is {gained}."


def _amount(point: CurvePoint) -> str:
    return f"{point.share:.0%} of the rows" if point.rows is None else f"{point.rows:,} rows"


def _with_members(contenders: Sequence[ScoredModel]) -> list[tuple[ScoredModel, list[ScoredModel]]]:
    """Return each tuned row with its sweep members of the same kind; rows without members are left out."""
    members = [model for model in contenders if _is_member(model)]
    tuned = [model for model in contenders if model.experiment and model.kind != "champion" and not _is_member(model)]
    sweeps = [
        (
            model,
            [
                member
                for member in members
                if sweep_owner(member.experiment or "") == model.experiment and member.kind == model.kind
            ],
        )
        for model in tuned
    ]
    return [(model, own_members) for model, own_members in sweeps if own_members]


def _point(model: ScoredModel, estimates: Estimates, rows: Mapping[str, int]) -> CurvePoint:
    experiment = model.experiment or ""
    scores = {metric: interval(estimate) for metric, estimate in estimates[model.name].items()}
    return CurvePoint(experiment, learning_curve_share(experiment) or 1.0, rows.get(experiment), scores)


def _is_member(model: ScoredModel) -> bool:
    return model.kind != "champion" and model.experiment is not None and is_sweep_member(model.experiment)
