"""Make a comparison from scores: choose the models, rank their rows, and ask every source for its claims.

No model is loaded. The same inputs give the same document.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_pipeline.decide.bench import Bench, Config
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.sources import SOURCES
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.contaminated_models import contaminated_models
from ft_pipeline.evaluation.comparison.deciding_metric import AUTO, deciding_metric
from ft_pipeline.evaluation.comparison.estimates import estimate_all, is_measured, rank
from ft_pipeline.evaluation.comparison.leads import Estimate, interval
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel, comparable_models
from ft_pipeline.evaluation.comparison.sweep_results import drop_sweep_members, learning_curves
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
from ft_pipeline.evaluation.opinions.collect import opinions_of
from ft_pipeline.evaluation.tuned_variants import variant_of

RULES = (
    "3: skew-corrected t over conversations, Wilson for shares; nats per byte; forgetting against the own base; rails"
)
"""The rules of this version."""


def build(
    inputs: Mapping[str, Path],
    config: Mapping[str, Any],
    experiments: Mapping[str, Mapping[str, Any]] | None = None,
    conversations: Path | None = None,
) -> Comparison:
    """Return the comparison. UserError if nothing was scored, or if models were scored on different items."""
    settings, (models, left_out) = Config.model_validate(config), comparable_models(inputs, config)
    settings = settings.model_copy(update={"bases": _bases(models, settings)})
    shown, contaminated = drop_sweep_members(models), contaminated_models(config)
    if not shown:
        raise UserError(" ".join(entry.describe() for entry in contaminated) or "There are no scores to compare yet.")
    samples = {model.name: model.records("samples.parquet") for model in models}
    _check_items(samples)
    own = {name: Metric(**fields) for model in models for name, fields in model.own_metrics.items()}
    metrics = METRICS | own
    estimates = estimate_all(models, samples, own)
    of_rows = {model.name: estimates[model.name] for model in shown}
    opinions = opinions_of(
        {model.name: model.kind for model in shown},
        {model.name: samples[model.name] for model in shown},
        inputs,
        names_metric=settings.primary_metric != AUTO,
    )
    primary, decided_by, second_key = deciding_metric(settings.primary_metric, config, of_rows, opinions)
    if primary not in metrics:
        raise UserError(f"promotion.metric {primary!r} is not in these scores, which are older. Run `ft run`.")
    by_name = {model.name: model for model in shown}
    train_rows = {name: facts["train_rows"] for name, facts in (experiments or {}).items() if "train_rows" in facts}
    curves = learning_curves(models, estimates, train_rows, (primary, metrics[primary]))
    comparison = Comparison(
        test_rows=len({sample["group"] for sample in samples[shown[0].name]}),
        test_items=len(samples[shown[0].name]),
        primary_metric=primary,
        rules=RULES,
        fingerprint=models[0].row["fingerprint"],
        decided_by=" ".join(filter(None, [settings.notice, decided_by])),
        metrics={name: metric for name, metric in metrics.items() if is_measured(name, of_rows)},
        champion=settings.champion,
        rows=[_row(by_name[name], of_rows[name], settings) for name in rank(metrics[primary], primary, of_rows)],
        contaminated=contaminated,
        left_out=left_out,
        learning_curves=curves,
    )
    bench = Bench(models, samples, estimates, opinions, settings, second_key, conversations, comparison)
    for source in SOURCES:
        bench = replace(bench, comparison=bench.comparison.with_claims(source(bench)))
    return bench.comparison


def _row(model: ScoredModel, estimates: Mapping[str, Estimate], config: Config) -> Row:
    row, facts = model.row, model.row["model"]
    has_variant = model.experiment is not None and model.kind in ("adapter", "merged", "champion")
    return Row(
        **{key: row.get(key) for key in ("prompt_tokens_per_call", "seconds_per_call", "cost_per_call", "general")},
        **config.contenders.get(model.source.partition("/")[0], {}),
        name=model.name,
        kind=model.kind,
        experiment=model.experiment,
        technique=facts.get("technique"),
        passages=facts.get("passages", 0),
        base_model=config.base_names.get(config.bases.get(model.source, "")),
        learned_from=model.learned_from,
        variant=variant_of(row["name"]) if has_variant else None,
        scores={metric: Score(*vars(interval(estimate)).values()) for metric, estimate in estimates.items()},
        source=model.source,
        source_row=row["name"],
    )


def _bases(models: list[ScoredModel], config: Config) -> dict[str, str]:
    """Return input → fingerprint of the base model that its models come from, as far as it is known."""
    bases = dict(config.bases)
    if base := (config.champion or {}).get("base_model"):
        bases |= {model.source: base for model in models if model.kind == "champion"}
    of_merged = {model.source: f"{model.experiment}/scores" for model in models if model.kind == "gguf"}
    return bases | {name: bases[scores] for name, scores in of_merged.items() if scores in bases}


def _check_items(samples: Mapping[str, list[dict[str, Any]]]) -> None:
    first = next(iter(samples))
    items = [sample["item"] for sample in samples[first]]
    for name, of_model in samples.items():
        if [sample["item"] for sample in of_model] != items:
            raise UserError(f"{name} was not scored on the items of {first}. Score it again with `ft run --force`.")
