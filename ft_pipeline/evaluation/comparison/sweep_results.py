"""What the members of a sweep show in a comparison: the spread between seeds, and the gain from more rows.

Sweep members do not get a row in the comparison, because the best of several seeds is best by luck.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from ft_pipeline.evaluation.comparison.leads import Estimate, difference, distance_from_ideal, interval
from ft_pipeline.evaluation.comparison.result_records import (
    CurvePoint,
    CurveStep,
    LearningCurve,
    SeedScores,
    SeedSpread,
)
from ft_pipeline.evaluation.comparison.score import describe_interval
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.settings.sweep import is_sweep_member, learning_curve_share, sweep_owner

Estimates = Mapping[str, Mapping[str, Estimate]]
"""By name of the model, then by metric."""


def drop_sweep_members(models: Sequence[ScoredModel]) -> list[ScoredModel]:
    """Return the models that get a row in the comparison: all but sweep members."""
    return [model for model in models if not _is_sweep_member(model)]


def seed_spread(models: Sequence[ScoredModel], estimates: Estimates) -> list[SeedSpread]:
    """Return the scores of each tuned model that was trained with several seeds."""
    spreads = []
    for tuned, trainings in trainings_by_seed(models):
        scores = {}
        for metric in estimates[tuned.name]:
            if all(metric in estimates[model.name] for model in trainings):
                values = [estimates[model.name][metric].value for model in trainings]
                scores[metric] = SeedScores(mean=fmean(values), min=min(values), max=max(values), values=values)
        spreads.append(
            SeedSpread(row=tuned.name, experiment=tuned.experiment or "", trainings=len(trainings), scores=scores)
        )
    return spreads


def trainings_by_seed(models: Sequence[ScoredModel]) -> list[tuple[ScoredModel, list[ScoredModel]]]:
    """Return each tuned model that was trained with several seeds, with all its trainings, itself first."""
    trained = []
    for tuned, members in _tuned_with_members(models):
        others = [member for member in members if learning_curve_share(member.experiment or "") is None]
        if others:
            trained.append((tuned, [tuned, *others]))
    return trained


def learning_curves(
    models: Sequence[ScoredModel], estimates: Estimates, train_rows: Mapping[str, int], primary: tuple[str, Metric]
) -> list[LearningCurve]:
    """Return the learning curve of each tuned model that was also trained on shares of its rows.

    train_rows: number of training rows written by people, by experiment. primary: name and definition of the metric of
    the last step.
    """
    metric_name, metric = primary
    curves = []
    for tuned, members in _tuned_with_members(models):
        shares = {
            share: member for member in members if (share := learning_curve_share(member.experiment or "")) is not None
        }
        if not shares or metric_name not in estimates[tuned.name]:
            continue
        trainings = [shares[share] for share in sorted(shares)] + [tuned]
        before, after = (
            distance_from_ideal(estimates[model.name][metric_name], metric.ideal) for model in trainings[-2:]
        )
        lead, low, high = difference(after, before, lower_is_better=metric.lower_is_better)
        step = CurveStep(metric=metric_name, difference=lead, low=low, high=high)
        points = [_point(model, estimates, train_rows) for model in trainings]
        curves.append(LearningCurve(row=tuned.name, experiment=tuned.experiment or "", points=points, last_step=step))
    return curves


def worst_seed(scores: SeedScores, metric: Metric) -> float:
    """Return the worst value of a metric over the seeds."""
    return max(scores.values, key=metric.rank_key)


def describe_seed_spread(spread: SeedSpread, metric_name: str, metric: Metric) -> str:
    """Return the spread between trainings that differ only in their seed, as a sentence."""
    score = spread.scores[metric_name]
    return (
        f"{spread.row}, trained with {spread.trainings} seeds: {metric.label} {score.mean:.3f} on average, "
        f"{score.min:.3f} to {score.max:.3f}."
    )


def describe_learning_curve(curve: LearningCurve, metric: Metric) -> str:
    """Return the gain from more rows as a sentence."""
    step = curve.last_step
    values = [
        f"{point.scores[step.metric].value:.3f} on {_amount(point)}"
        for point in curve.points
        if step.metric in point.scores
    ]
    gain = f"{step.difference:+.3f} (95 %: {describe_interval(step.low, step.high, sign='+')}; above zero is better)"
    return f"{curve.row}, {metric.label}: {', '.join(values)}; the gain from the last step is {gain}."


def _amount(point: CurvePoint) -> str:
    return f"{point.share:.0%} of the rows" if point.rows is None else f"{point.rows:,} rows"


def _tuned_with_members(models: Sequence[ScoredModel]) -> list[tuple[ScoredModel, list[ScoredModel]]]:
    """Return each tuned model with its sweep members of the same form and prompt; models without members are left
    out."""
    members: dict[tuple[str | None, str], list[ScoredModel]] = {}
    for model in models:
        if _is_sweep_member(model):
            members.setdefault((sweep_owner(model.experiment or ""), model.row["name"]), []).append(model)
    tuned = [model for model in models if model.experiment and model.kind != "champion" and not _is_sweep_member(model)]
    named = [(model, members.get((model.experiment, model.row["name"]), [])) for model in tuned]
    return [(model, of_model) for model, of_model in named if of_model]


def _point(model: ScoredModel, estimates: Estimates, train_rows: Mapping[str, int]) -> CurvePoint:
    experiment = model.experiment or ""
    scores = {metric: interval(estimate) for metric, estimate in estimates[model.name].items()}
    return CurvePoint(
        experiment=experiment,
        share=learning_curve_share(experiment) or 1.0,
        rows=train_rows.get(experiment),
        scores=scores,
    )


def _is_sweep_member(model: ScoredModel) -> bool:
    return model.kind != "champion" and model.experiment is not None and is_sweep_member(model.experiment)
