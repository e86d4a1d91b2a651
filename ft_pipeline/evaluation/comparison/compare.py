"""Compare every model and every prompt, from their scores and samples.

No model is loaded. Only models with the same evaluation fingerprint are compared; the others are listed under
`left_out` with the parts that differ. The same inputs give the same document.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.base_checks import base_checks_by_model
from ft_pipeline.evaluation.comparison.check_results import confusions, field_results
from ft_pipeline.evaluation.comparison.contaminated_models import contaminated_models
from ft_pipeline.evaluation.comparison.costs import break_even, with_costs
from ft_pipeline.evaluation.comparison.deciding_metric import AUTO, deciding_metric
from ft_pipeline.evaluation.comparison.estimates import Estimates, Samples, estimate_all, is_measured, rank
from ft_pipeline.evaluation.comparison.forgetting import forgetting_by_model
from ft_pipeline.evaluation.comparison.item_changes import item_changes
from ft_pipeline.evaluation.comparison.kept_leads import DEFAULT_SHARE, kept_leads
from ft_pipeline.evaluation.comparison.kept_prompts import kept_prompts
from ft_pipeline.evaluation.comparison.lead_checks import answer_checks, incumbent_checks, lead_tests
from ft_pipeline.evaluation.comparison.leads import Estimate, interval
from ft_pipeline.evaluation.comparison.likelihood_evidence import LIKELIHOODS
from ft_pipeline.evaluation.comparison.markdown import markdown_table
from ft_pipeline.evaluation.comparison.pairing import pair_all
from ft_pipeline.evaluation.comparison.rails import judge_answers
from ft_pipeline.evaluation.comparison.recipe_leads import recipe_leads
from ft_pipeline.evaluation.comparison.records import RULES, Comparison
from ft_pipeline.evaluation.comparison.result_records import LeftOut, QuantizationError
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow, GgufCosts
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel, comparable_models
from ft_pipeline.evaluation.comparison.screens import score_on_validation, screen_candidates
from ft_pipeline.evaluation.comparison.slice_members import find_slices
from ft_pipeline.evaluation.comparison.slices import compare_slices
from ft_pipeline.evaluation.comparison.sweep_results import drop_sweep_members, learning_curves, seed_spread
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.evaluation.opinions.collect import opinions_of

Experiments = Mapping[str, Mapping[str, Any]]
"""By experiment, facts about its training, as read_training_facts returns them. Only `took`, `noise`, `train_rows`,
`prompt` and `own_targets` are used, and each may be absent."""
Metrics = Mapping[str, Metric]
"""Every metric of this comparison, in display order."""

ANSWERS_MARGIN = 2.0
"""The margin of the second key of a comparison that names none."""
INCUMBENT_MARGIN = 0.05
"""The margin against the incumbent of a comparison that names none."""
DEFAULT_MARGIN = 0.05
"""The forgetting margin of a comparison that names none."""


def build_comparison(
    inputs: Mapping[str, Path],
    config: Mapping[str, Any],
    out: Path,
    experiments: Experiments | None = None,
    conversations: Path | None = None,
) -> dict[str, Any]:
    """Write comparison.json, comparison.md and samples.parquet (all answers, by row name) to `out`.

    inputs: see scored_models.read_scored_models; of opinions, see opinions_of. config: primary_metric (or `auto`, see
    deciding_metric). Optional: decides (see there), notice (about the metric), answers_margin (see
    AnswerCheck), champion (its record: name, experiment, fingerprint, base_model), fingerprint (the evaluation to
    compare; default: the most common), prices (CostSettings), forgetting_margin, bases (see forgetting_by_model),
    base_names (fingerprint of a base model → its name), contenders (by name: incumbent, ends), incumbent_margin, rails
    (the ceilings of rails.judge_answers), keeps (see kept_leads), stale (sweep members that were not trained again with
    the rest of their sweep), contaminated (see contaminated_models), not_asked (contenders without a key), probes and
    must_hold (see base_checks_by_model), labels (of classifications, by metric: in their order) and slices
    (`evaluation.slices` as JSON), learned_from (experiment → `preferences` or `rewards`; others imitate; that of the
    champion is in its record). conversations: the folder of the conversations with the test rows, which slices are
    made from; None: no slices.
    Returns the summary: the compared rows, the best row, the rows left out.
    """
    comparison = compare(inputs, config, experiments, conversations)
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
        "best": next((row.name for row in comparison.rows if row.kind != "gguf"), None),
        **{key: document[key] for key in ("left_out", "test_rows", "test_items", "primary_metric")},
    }


def compare(
    inputs: Mapping[str, Path],
    config: Mapping[str, Any],
    experiments: Experiments | None = None,
    conversations: Path | None = None,
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
    all_estimates = estimate_all(models, samples, custom_metrics)
    estimates = {name: all_estimates[name] for name in row_models}
    opinions = opinions_of(
        {name: model.kind for name, model in row_models.items()},
        {name: samples[name] for name in row_models},
        inputs,
        names_metric=config["primary_metric"] != AUTO,
    )
    primary, decided_by, second_key = deciding_metric(config["primary_metric"], config, estimates, opinions)
    if primary not in metrics:
        raise UserError(f"promotion.metric {primary!r} is not in these scores, which are older. Run `ft run`.")
    ranked = [row_models[name] for name in rank(metrics[primary], primary, estimates)]
    facts = experiments or {}
    train_rows = {name: entry["train_rows"] for name, entry in facts.items() if "train_rows" in entry}
    margin = config.get("forgetting_margin", DEFAULT_MARGIN)
    bases = _bases(models, config)
    forgetting = forgetting_by_model(models, all_estimates, bases, margin)
    base_checks = base_checks_by_model(list(row_models.values()), estimates, metrics, config, bases)
    names, about = config.get("base_names", {}), config.get("contenders", {})
    rows = [
        replace(
            row,
            forgetting=forgetting.get(row.name),
            rails=judge_answers(samples[row.name], config.get("rails", {})),
            base_checks=base_checks.get(row.name, ()),
            base_model=names.get(bases.get(row.source)),
            **about.get(row.source.partition("/")[0], {}),
        )
        for row in _rows(ranked, estimates, metrics, facts, config.get("prices", {}))
    ]
    first_samples = next(iter(samples.values()))
    names_likelihood = config["primary_metric"] in LIKELIHOODS
    pairs, incomparable = pair_all(
        list(row_models.values()), primary, estimates, metrics, names_likelihood=names_likelihood
    )
    comparison = Comparison(
        test_rows=len({sample["group"] for sample in first_samples}),
        test_items=len(first_samples),
        primary_metric=primary,
        metrics={name: metric for name, metric in metrics.items() if is_measured(name, estimates)},
        rows=rows,
        pairs=pairs,
        seeds=seed_spread(models, all_estimates),
        learning_curves=learning_curves(models, all_estimates, train_rows, (primary, metrics[primary])),
        quantization_noise=_quantization_errors(facts),
        fingerprint=models[0].row["fingerprint"],
        evaluation=ranked[0].parts,
        left_out=left_out + [LeftOut(name, name, None, ["training"]) for name in config.get("stale", ())],
        champion=_compared_champion(config.get("champion")),
        rules=RULES,
        contaminated=contaminated,
        incomparable=incomparable,
        decided_by=" ".join(filter(None, [config.get("notice"), decided_by])),
        opinions=opinions,
    )
    return replace(
        comparison,
        break_even=break_even(comparison),
        changes=item_changes(comparison, samples),
        kept_leads=kept_leads(comparison, estimates, config.get("keeps", DEFAULT_SHARE)),
        kept_prompts=kept_prompts(comparison, estimates, facts),
        own_targets=_own_targets(rows, facts),
        lead_tests=lead_tests(comparison, estimates),
        recipe_leads=recipe_leads(comparison, models, all_estimates),
        screens=screen_candidates(comparison, list(row_models.values())),
        not_asked=config.get("not_asked", []),
        field_results=[result for row in rows for result in field_results(row.name, samples[row.name])],
        confusions=[result for row in rows for result in confusions(row.name, samples[row.name], config.get("labels"))],
        incumbent_checks=incumbent_checks(comparison, estimates, config.get("incumbent_margin", INCUMBENT_MARGIN)),
        answer_checks=answer_checks(comparison, estimates, second_key, config.get("answers_margin", ANSWERS_MARGIN)),
        **_slices(comparison, samples, conversations, config.get("slices", {})),
    )


def _slices(
    comparison: Comparison, samples: Samples, conversations: Path | None, rules: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the comparison says of slices; nothing without the conversations."""
    if conversations is None:
        return {}
    ids = {sample["group"] for sample in next(iter(samples.values()))}
    return compare_slices(comparison, find_slices(conversations, ids, rules), samples, rules)._asdict()


def _compared_champion(champion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the champion as the document shows it."""
    hidden = {"contaminated", "base_model", "learned_from"}
    return None if champion is None else {key: value for key, value in champion.items() if key not in hidden}


def _bases(models: Sequence[ScoredModel], config: Mapping[str, Any]) -> dict[str, str]:
    """Return input → fingerprint of the base model that its models come from, as far as it is known."""
    bases, champion = dict(config.get("bases", {})), config.get("champion") or {}
    if base := champion.get("base_model"):
        bases |= {model.source: base for model in models if model.kind == "champion"}
    of_merged_model = {model.source: f"{model.experiment}/scores" for model in models if model.kind == "gguf"}
    return bases | {name: bases[scores] for name, scores in of_merged_model.items() if scores in bases}


def _check_items(samples: Samples) -> None:
    """Raise UserError if the models were not scored on the same items."""
    first = next(iter(samples))
    items = [sample["item"] for sample in samples[first]]
    for name, model_samples in samples.items():
        if [sample["item"] for sample in model_samples] != items:
            raise UserError(f"{name} was not scored on the items of {first}. Score it again with `ft run --force`.")


def _quantization_errors(facts: Experiments) -> dict[str, list[QuantizationError]]:
    """Return the quantization errors of the experiments in which they were measured."""
    return {
        name: [QuantizationError.from_json(error) for error in entry["noise"]]
        for name, entry in sorted(facts.items())
        if entry.get("noise")
    }


def _own_targets(rows: Sequence[ComparisonRow], facts: Experiments) -> list[OwnTarget]:
    """Return the held-out targets of the experiments that have a row."""
    trained = sorted({row.experiment for row in rows if row.experiment and row.kind in TUNED})
    return [OwnTarget.from_json(entry) for name in trained for entry in facts.get(name, {}).get("own_targets", ())]


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
        shared_prompt_tokens=row.get("shared_prompt_tokens", 0),
        generated_tokens_per_call=row["generated_tokens_per_call"],
        seconds_per_call=row["seconds_per_call"],
        cut_off=row["cut_off"],
        cost_per_call=row.get("cost_per_call"),
        trainable_params=facts.get("trainable_params", 0),
        general=row["general"],
        fingerprint=row["fingerprint"],
        computed_in=row.get("computed_in"),
        tokens=model.tokens if "loss" in estimates else None,
        max_new_tokens=row.get("max_new_tokens"),
        validation=score_on_validation(model),
        gguf=GgufCosts.from_json(row["gguf"]) if "gguf" in row else None,
        learned_from=model.learned_from,
        source=model.source,
        source_row=row["name"],
    )
