"""Make a comparison from scores: choose the models, rank their rows, and ask every source for its claims.

No model is loaded. The same inputs give the same document.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.decide.bench import Bench, Config
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.findings.contaminated import contaminated_models
from ft_pipeline.decide.findings.costs import break_even, with_costs
from ft_pipeline.decide.findings.item_changes import item_changes
from ft_pipeline.decide.findings.kept_prompts import kept_prompts
from ft_pipeline.decide.screened_out import as_shown
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.decide.sources import SOURCES, leads, screens
from ft_pipeline.decide.sources.pair_opinions import decided_in_its_place, opinions_of
from ft_pipeline.decide.sources.slices import list_slices
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.check_results import confusions, field_results
from ft_pipeline.evaluation.comparison.clusters import Clusters, read_clusters, with_clusters
from ft_pipeline.evaluation.comparison.deciding_metric import AUTO, deciding_metric
from ft_pipeline.evaluation.comparison.estimates import Estimates, estimate_all, is_measured, rank
from ft_pipeline.evaluation.comparison.leads import Estimate, interval, unit_of
from ft_pipeline.evaluation.comparison.result_records import LeftOut, QuantizationError
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel, comparable_models
from ft_pipeline.evaluation.comparison.scored_twice import scored_twice
from ft_pipeline.evaluation.comparison.sweep_results import drop_sweep_members, learning_curves, seed_spread
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
from ft_pipeline.evaluation.tuned_variants import variant_of

Experiments = Mapping[str, Mapping[str, Any]]
"""By experiment, facts about its training, as read_training_facts returns them. Only `took`, `noise`, `train_rows`,
`prompt` and `own_targets` are used, and each may be absent."""
RULES = (
    "4: skew-corrected t over conversations, at least as wide as unseen failures may be, Wilson for shares; nats per "
    "byte; forgetting against the own base; rails"
)
"""The rules of this version."""


def build_comparison(
    inputs: Mapping[str, Path],
    config: Mapping[str, Any],
    out: Path,
    experiments: Experiments | None = None,
    conversations: Path | None = None,
) -> dict[str, Any]:
    """Write comparison.json, comparison.md and samples.parquet (all answers, by row name) to `out`.

    inputs: see scored_models.read_scored_models; of opinions, see opinions_of. config: see bench.Config. conversations:
    the folder of the conversations with the test rows, which slices are made from; None: no slices.
    Returns the summary: the compared rows, the best row, the rows left out.
    """
    bench = _bench(inputs, config, experiments, conversations)
    comparison, document = bench.comparison, bench.comparison.to_json()
    (out / "comparison.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    (out / "comparison.md").write_text(comparison_markdown(as_shown(comparison)), encoding="utf-8")
    samples = [
        {**sample, "name": model.name}
        for model in drop_sweep_members(bench.models)
        for sample in bench.samples[model.name]
    ]
    pq.write_table(pa.Table.from_pylist(samples), out / "samples.parquet")
    return {
        "rows": [row.name for row in comparison.rows],
        "best": next((row.name for row in comparison.rows if row.kind != "gguf"), None),
        "left_out": [entry.model_dump() for entry in comparison.left_out],
        **{key: document[key] for key in ("test_rows", "test_items", "primary_metric")},
    }


def build(
    inputs: Mapping[str, Path],
    config: Mapping[str, Any],
    experiments: Experiments | None = None,
    conversations: Path | None = None,
) -> Comparison:
    """Return the comparison. Arguments as in build_comparison.

    Raises UserError if nothing was scored, if models were scored on different items, or if the primary metric is
    missing.
    """
    return _bench(inputs, config, experiments, conversations).comparison


def _bench(
    inputs: Mapping[str, Path],
    config: Mapping[str, Any],
    experiments: Experiments | None,
    conversations: Path | None,
) -> Bench:
    """Return the scores of every model, with the finished comparison. Arguments and errors as in build."""
    settings, (models, left_out) = Config.model_validate(config), comparable_models(inputs, config)
    settings = settings.model_copy(update={"bases": _bases(models, settings)})
    shown, contaminated = drop_sweep_members(models), contaminated_models(config)
    by_name = {model.name: model for model in shown}
    if not shown:
        raise UserError(
            " ".join(entry.describe() for entry in contaminated)
            or "There are no scores to compare yet. Materialize prompt_baseline and scores, or run `ft run`."
        )
    clusters = read_clusters(conversations)
    samples = {model.name: with_clusters(model.records("samples.parquet"), clusters) for model in models}
    _check_items(samples)
    own = {name: Metric(**fields) for model in models for name, fields in model.own_metrics.items()}
    metrics = METRICS | own
    estimates = estimate_all(models, samples, own)
    of_rows = {name: estimates[name] for name in by_name}
    opinions = opinions_of(
        {name: model.kind for name, model in by_name.items()},
        {name: samples[name] for name in by_name},
        inputs,
        names_metric=settings.primary_metric != AUTO,
    )
    references = [sample["reference"] for sample in samples[shown[0].name]]
    primary, decided_by, second_key = deciding_metric(settings.primary_metric, config, of_rows, references)
    if primary not in metrics:
        raise UserError(f"promotion.metric {primary!r} is not in these scores, which are older. Run `ft run`.")
    ranked, facts = [by_name[name] for name in rank(metrics[primary], primary, of_rows)], experiments or {}
    comparison = Comparison(
        test_rows=len({sample["group"] for sample in samples[shown[0].name]}),
        clusters=len({unit_of(sample) for sample in samples[shown[0].name]}) if clusters else None,
        test_items=len(samples[shown[0].name]),
        primary_metric=primary,
        rules=RULES,
        fingerprint=models[0].row["fingerprint"],
        worth=settings.worth,
        evaluation=ranked[0].parts,
        names_metric=settings.primary_metric != AUTO,
        decided_by=" ".join(filter(None, [settings.notice, *decided_in_its_place(opinions), decided_by])),
        metrics={name: metric for name, metric in metrics.items() if is_measured(name, of_rows)},
        champion=_compared_champion(settings.champion),
        rows=[_row(model, of_rows[model.name], metrics, settings, facts, clusters) for model in ranked],
        contaminated=contaminated,
        left_out=left_out
        + [LeftOut(name=name, experiment=name, fingerprint=None, differs_in=["training"]) for name in settings.stale],
        not_asked=settings.not_asked,
        without_rivals=settings.without_rivals,
        prompts_tried=settings.prompts_tried,
        scored_twice=scored_twice(shown, samples, primary, own),
        incomparable=leads.incomparable(shown, of_rows, primary, metrics, settings),
    )
    bench = Bench(models, samples, estimates, opinions, settings, second_key, conversations, comparison, clusters)
    for source in SOURCES:
        bench = replace(bench, comparison=bench.comparison.with_claims(source(bench)))
    return replace(bench, comparison=bench.comparison.model_copy(update=_findings(bench, of_rows, facts)))


def _findings(bench: Bench, estimates: Estimates, facts: Experiments) -> dict[str, Any]:
    """Return what a comparison shows besides claims."""
    comparison, samples = bench.comparison, bench.samples
    train_rows = {name: entry["train_rows"] for name, entry in facts.items() if "train_rows" in entry}
    rows, primary = [row.name for row in comparison.rows], (comparison.primary, comparison.metric())
    trained = sorted({row.experiment for row in comparison.rows if row.experiment and row.rights.is_tuned})
    return {
        "break_even": break_even(comparison, bench.config.prices),
        "seeds": seed_spread(bench.models, bench.estimates),
        "learning_curves": learning_curves(bench.models, bench.estimates, train_rows, primary),
        "quantization_noise": {
            name: [QuantizationError.model_validate(error) for error in entry["noise"]]
            for name, entry in sorted(facts.items())
            if entry.get("noise")
        },
        "changes": item_changes(comparison, samples),
        "kept_prompts": kept_prompts(comparison, estimates, facts),
        "own_targets": [OwnTarget(**entry) for name in trained for entry in facts.get(name, {}).get("own_targets", ())],
        "slices": list_slices(bench),
        "field_results": [result for name in rows for result in field_results(name, samples[name])],
        "confusions": [result for name in rows for result in confusions(name, samples[name], bench.config.labels)],
    }


def _compared_champion(champion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the champion as the document shows it."""
    hidden = {"contaminated", "base_model", "learned_from"}
    return None if champion is None else {key: value for key, value in champion.items() if key not in hidden}


def _row(
    model: ScoredModel,
    estimates: Mapping[str, Estimate],
    metrics: Mapping[str, Metric],
    config: Config,
    experiments: Experiments,
    clusters: Clusters,
) -> Row:
    row, facts = model.row, model.row["model"]
    has_variant = model.experiment is not None and model.kind in ("adapter", "merged", "champion")
    copied = ("prompt_tokens_per_call", "generated_tokens_per_call", "seconds_per_call", "cut_off", "fingerprint")
    optional = ("cost_per_call", "computed_in", "max_new_tokens")
    made = Row(
        **{key: row[key] for key in (*copied, "general")},
        **{key: row.get(key) for key in optional},
        **config.contenders.get(model.source.partition("/")[0], {}),
        name=model.name,
        kind=model.kind,
        experiment=model.experiment,
        technique=facts.get("technique"),
        passages=facts.get("passages", 0),
        base_model=config.base_names.get(config.bases.get(model.source, "")),
        timed_in=model.made_in,
        learned_from=model.learned_from,
        variant=variant_of(row["name"]) if has_variant else None,
        scores={metric: interval(estimates[metric]) for metric in metrics if metric in estimates},
        validation=screens.score_on_validation(with_clusters(model.records("validation.parquet"), clusters)),
        shared_prompt_tokens=row.get("shared_prompt_tokens", 0),
        trainable_params=facts.get("trainable_params", 0),
        tokens=model.tokens if "loss" in estimates else None,
        gguf=row.get("gguf"),
        source=model.source,
        source_row=row["name"],
    )
    return with_costs(made, experiments.get(model.experiment or "", {}), config.prices)


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
