"""Which rows can be paired on which metric, and the paired differences of those that can."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from ft_pipeline.evaluation.comparison.estimates import Estimates, rank
from ft_pipeline.evaluation.comparison.lead_records import Incomparable, PairedDifference
from ft_pipeline.evaluation.comparison.leads import difference, distance_from_ideal
from ft_pipeline.evaluation.comparison.likelihood_evidence import LIKELIHOODS, why_no_evidence
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.definitions import PER_TOKEN, Metric


def scaled_margin(margin: float, metric: str, value: float) -> float:
    """Return a margin in units of a metric: absolute for shares, 100 times that for chrF, relative for likelihoods.

    value: that of the row against which it is measured.
    """
    if metric == "chrf":
        return 100 * margin
    return margin * abs(value) if metric in LIKELIHOODS else margin


def pair_all(
    models: Sequence[ScoredModel],
    primary: str,
    estimates: Estimates,
    metrics: Mapping[str, Metric],
    *,
    names_likelihood: bool = False,
) -> tuple[list[PairedDifference], list[Incomparable]]:
    """Return the paired difference of every two models in every metric that both have, the primary metric first, and
    what cannot be paired.

    names_likelihood: the project names a likelihood as the metric that decides. Then all models are paired on it.
    """
    by_name = {model.name: model for model in models}
    pairs, incomparable = [], []
    for metric_name in [primary, *(name for name in metrics if name != primary)]:
        metric = metrics[metric_name]
        measured = {name: by_metric for name, by_metric in estimates.items() if metric_name in by_metric}
        rank_estimates = {name: distance_from_ideal(measured[name][metric_name], metric.ideal) for name in measured}
        for better, worse in combinations(rank(metric, metric_name, measured), 2):
            because = _why_not(by_name[better], by_name[worse], metric_name)
            if because is None and metric_name in LIKELIHOODS and not names_likelihood:
                because = why_no_evidence(by_name[better], by_name[worse])
            if because:
                incomparable.append(Incomparable(better, worse, metric_name, because))
                continue
            lead = difference(rank_estimates[better], rank_estimates[worse], lower_is_better=metric.lower_is_better)
            pairs.append(PairedDifference(better, worse, metric_name, *lead))
        lacking = [name for name in estimates if name not in measured]
        incomparable += [
            Incomparable(name, other, metric_name, because)
            for name in lacking
            if measured and (because := _why_missing(by_name[name], metric_name))
            for other in estimates
            if other != name and (other not in lacking or other > name)
        ]
    return pairs, incomparable


def _why_not(first: ScoredModel, second: ScoredModel, metric: str) -> str | None:
    """Return why two models that have a metric cannot be paired on it; None if they can."""
    if metric not in PER_TOKEN or first.tokens == second.tokens:
        return None
    parts = [name for name in ("vocabulary", "template") if first.parts.get(name) != second.parts.get(name)]
    return f"another {' and '.join(parts)}: a loss per token is not comparable"


def _why_missing(model: ScoredModel, metric: str) -> str | None:
    """Return why a model cannot have a metric; None if it just was not measured."""
    if reason := model.row.get("withheld", {}).get(metric):
        return str(reason)
    if metric not in LIKELIHOODS:
        return None
    if model.kind in ("teacher", "contender"):
        return "its server gives no likelihoods"
    return "its template ends a turn without a control token" if metric == "stop_nats" else None
