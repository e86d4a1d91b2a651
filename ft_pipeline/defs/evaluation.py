"""Evaluation: scores of prompting and tuned models under one harness, their comparison, and a recommendation."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ft_pipeline.defs.distillation import config_and_handling
from ft_pipeline.defs.task_inputs import task_files, task_inputs
from ft_pipeline.defs.training_chain import base_model_of, base_model_spec, experiment_settings, references
from ft_pipeline.evaluation.comparison.compare import build_comparison
from ft_pipeline.evaluation.comparison.contaminated_models import Facts, find_contaminated
from ft_pipeline.evaluation.comparison.plots import lead_picture, learning_curve_picture, score_picture
from ft_pipeline.evaluation.comparison.records import read_comparison
from ft_pipeline.evaluation.comparison.training_facts import read_training_facts, same_recipe
from ft_pipeline.evaluation.highest_loss import hardest_answers
from ft_pipeline.evaluation.metrics.custom_metrics import resolve_metrics
from ft_pipeline.evaluation.recommendation.rules import build_recommendation
from ft_pipeline.execution.metadata import picture, table
from ft_pipeline.execution.step import STEPS, BuildContext, SpecContext, versions_of
from ft_pipeline.execution.step_asset import step
from ft_pipeline.project import Project, read_jsonl
from ft_pipeline.release.champion import ChampionRecord, champion_before, decision_key
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.sweep import sweep_owner
from ft_pipeline.settings.teacher import PriceSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import ArtifactReference, Spec
from ft_pipeline.tables.inspection import LISTED_ROW_COLUMNS

IGNORED_WHILE_SCORING = {"temperature", "max_new_tokens", "answers_per_prompt", "batch_size"}
"""Settings of the teacher that do not apply while it is scored: all models are scored with those of `evaluation`."""
ROWS_TO_LOOK_AT = 5
"""Number of test answers with the highest loss that a page shows."""
HARNESS_PACKAGES = ("lm-eval", "torch", "transformers", "peft", "bitsandbytes", "sacrebleu", "rouge-score")


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "text"],
    code_version="3",
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _scores_metadata(artifact),
)
def prompt_baseline(context: SpecContext) -> Spec:
    """Scores of the base model under each prompt variant: plain, with a system prompt, with examples, with retrieved
    passages. Also scores the teacher, if it is another model."""
    experiment_settings(context)
    inputs = {"conversations": context.checked_artifact("conversations"), "base_model": context.artifact("base_model")}
    if (teacher := _teacher_spec(context, references(inputs))) is not None:
        context.built_artifact(teacher)  # once per base model; `comparison` finds it by the same spec
    return _baseline_spec(context, references(inputs), context.project.settings.prompting.model_dump(mode="json"))


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "adapter", "merged_model"],
    code_version="3",
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _scores_metadata(artifact) | _highest_loss(artifact),
)
def scores(context: SpecContext) -> Spec:
    """Scores of the adapter and the merged model: same harness, template and rows as the prompt baseline."""
    adapter = context.artifact("adapter")
    inputs = {
        "base_model": base_model_of(context, adapter),
        "adapter": adapter,
        "merged_model": context.checked_artifact("merged_model"),
    }
    return _scores_spec(context, references(inputs), _served_settings(experiment_settings(context)))


@step(
    stage="evaluation",
    deps=["prompt_baseline", "scores"],
    kinds={"json", "markdown"},
    code_version="4",
    build=lambda build: _build_comparison(build),
    show=lambda artifact: _comparison_metadata(artifact),
)
def comparison(context: SpecContext) -> Spec:
    """All models and prompt variants in one table, with paired 95 % intervals and the cost per call."""
    scored, stale = _current_scores(context)
    inputs = references(scored | _teacher_scores(context, scored))
    settings = context.project.settings
    config: dict[str, Any] = {
        "fingerprint": _newest_evaluation(scored),
        "primary_metric": settings.promotion.metric,
        "prices": settings.costs.model_dump(mode="json"),
        "forgetting_margin": settings.promotion.forgetting_margin,
        "rails": settings.promotion.rails,
        "keeps": settings.promotion.keeps,
        "bases": {name: _base_of(context.store, artifact) for name, artifact in sorted(scored.items())},
        **({"stale": stale} if stale else {}),
    }
    if contaminated := _contaminated_experiments(context, scored):
        config["contaminated"] = contaminated
    previous_champion = champion_before(context.store.root, decision_key(inputs, config))
    if previous_champion is not None:
        config["champion"] = {key: getattr(previous_champion, key) for key in ("name", "experiment", "fingerprint")}
        if facts := _contaminated_champion(context, previous_champion):
            config["champion"]["contaminated"] = facts
        else:
            asset, artifact = _champion_scores(context, previous_champion, scored)
            inputs[f"champion/{asset}"] = artifact.reference
            config["champion"]["base_model"] = _base_of(context.store, artifact)
    return Spec("comparison", inputs, config, versions_of("numpy", "scipy"))


@step(
    stage="evaluation",
    deps=["comparison"],
    kinds={"json"},
    code_version="2",
    build=lambda build: _build_recommendation(build),
    show=lambda artifact: {
        "decision": artifact.summary["decision"],
        "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in artifact.summary["reasons"])),
        "evidence": artifact.summary["evidence"],
    },
)
def recommendation(context: SpecContext) -> Spec:
    """Whether to fine-tune, how, and why: the result of rules on the measured scores and the data."""
    config = {"min_test_rows": context.project.settings.promotion.min_test_rows}
    return Spec("recommendation", {"comparison": context.artifact("comparison").reference}, config)


def _base_of(store: ArtifactStore, scores: Artifact) -> str:
    """Return the fingerprint of the base model that the first phase of a scored model was trained from."""
    base = store.require(*scores.inputs["base_model"])
    while "merged_model" in base.inputs:
        merged_model = store.require(*base.inputs["merged_model"])
        base = store.require(*merged_model.inputs["base_model"])
    return base.fingerprint


def _current_scores(context: SpecContext) -> tuple[dict[str, Artifact], list[str]]:
    """Return the current scores by `<experiment>/<asset>`, and the experiments that are left out.

    Left out are members of a sweep (settings/sweep.py) whose experiment was since trained differently or on other data.
    """
    scored: dict[str, Artifact] = {}
    stale = []
    for name in context.project.experiment_names():  # an experiment comes before its sweep members
        scores, owner = context.find("scores", name), sweep_owner(name)
        owner_scores = scored.get(f"{owner}/scores")
        if scores is not None and owner_scores is not None and not same_recipe(context.store, owner_scores, scores):
            stale.append(name)
            continue
        baseline = context.find("prompt_baseline", name) if f"{owner}/prompt_baseline" not in scored else None
        artifacts = {"prompt_baseline": baseline, "scores": scores}
        scored |= {f"{name}/{asset}": artifact for asset, artifact in artifacts.items() if artifact is not None}
    return scored, stale


def _contaminated_experiments(context: SpecContext, scored: Mapping[str, Artifact]) -> dict[str, Facts]:
    """Experiment → facts, for each one whose model learned from a row that is a test row in the compared evaluation."""
    newest = _newest(scored)
    if newest is None:
        return {}
    adapters = {
        name.removesuffix("/scores"): context.store.require(*artifact.inputs["adapter"])
        for name, artifact in scored.items()
        if name.endswith("/scores")
    }
    return find_contaminated(context.store, adapters, context.store.require(*newest.inputs["conversations"]))


def _contaminated_champion(context: SpecContext, champion: ChampionRecord) -> Facts | None:
    """The facts if the champion learned from a row of the test split that it would be scored on."""
    if champion.kind == "prompt":
        return None
    adapter = context.store.require("adapter", champion.fingerprints["adapter"])
    found = find_contaminated(context.store, {champion.name: adapter}, context.checked_artifact("conversations"))
    return found.get(champion.name)


def _evaluation_config(context: SpecContext) -> dict[str, Any]:
    """The settings that scores depend on, with the content of the files that they name."""
    settings = context.project.settings.evaluation
    return {
        "evaluation": settings.model_dump(
            mode="json", exclude={"general_questions", "general_texts", "bootstrap_resamples"}
        ),
        "general_questions": read_jsonl(context.project.resolve_path(settings.general_questions)),
        "general_texts": read_jsonl(context.project.resolve_path(settings.general_texts)),
        "custom_metrics": resolve_metrics(context.project.root, settings.metrics),
        "task_files": task_files(context),
    }


def _served_settings(settings: ExperimentSettings) -> dict[str, Any]:
    """How a tuned model is loaded and prompted."""
    quantization = settings.quantization.model_dump(mode="json") if settings.technique == "qlora" else None
    return {"technique": settings.technique, "quantization": quantization, "system_prompt": settings.data.system_prompt}


def _scores_spec(context: SpecContext, model_inputs: dict[str, ArtifactReference], served: dict[str, Any]) -> Spec:
    config = _evaluation_config(context)
    inputs = {
        "conversations": context.checked_artifact("conversations").reference,
        **model_inputs,
        **task_inputs(context, config["task_files"]),
    }
    return Spec("scores", inputs, {**config, **served}, versions_of(*HARNESS_PACKAGES))


def _baseline_spec(context: SpecContext, inputs: dict[str, ArtifactReference], prompting: dict[str, Any]) -> Spec:
    """The spec of a prompt baseline.

    `text` is an input only if a variant retrieves passages. Otherwise a new text would rescore all variants.
    """
    versions = [*HARNESS_PACKAGES]
    variants = prompting["variants"].values()
    if any(variant.get("passages") for variant in variants):
        inputs = {**inputs, "text": context.checked_artifact("text").reference}
    if any(variant.get("passages") or variant.get("examples") == "retrieved" for variant in variants):
        versions.append("bm25s")
    config = _evaluation_config(context)
    inputs = {**inputs, **task_inputs(context, config["task_files"])}
    return Spec("prompt_baseline", inputs, {**config, "prompting": prompting}, versions_of(*versions))


def _teacher_spec(context: SpecContext, scored: dict[str, ArtifactReference]) -> Spec | None:
    """The spec of the teacher's scores on the test prompts, with the tokenizer of a base model.

    None if the teacher has no row in the comparison: the settings exclude it, or it is the base model itself.
    scored: references to `conversations` and `base_model` of the rows that the teacher is compared with.
    """
    teacher = context.project.settings.teacher
    if not teacher.in_comparison:
        return None
    inputs = {name: scored[name] for name in ("conversations", "base_model")}
    if teacher.endpoint is None:
        model = context.built_artifact(base_model_spec(teacher.model, teacher.revision)).reference
        if model == inputs["base_model"]:
            return None
        inputs["teacher_model"] = model
    teacher_config, handling = config_and_handling(teacher)
    teacher_config = {key: value for key, value in teacher_config.items() if key not in IGNORED_WHILE_SCORING}
    prices = teacher.endpoint.prices if teacher.endpoint else PriceSettings()
    config = {
        **_evaluation_config(context),
        "teacher": teacher_config,
        "name": teacher.model,
        "prices": prices.model_dump(mode="json"),
    }
    return Spec("teacher_scores", inputs, config, versions_of("sacrebleu", "rouge-score"), handling=handling)


def _teacher_scores(context: SpecContext, scored: dict[str, Artifact]) -> dict[str, Artifact]:
    """The teacher's scores for each prompt baseline that was measured, as far as the store has them."""
    teacher_scores = {}
    for name, baseline in scored.items():
        if name.endswith("/prompt_baseline"):
            spec = _teacher_spec(context, baseline.inputs)
            if spec is not None and (artifact := context.store.find(spec)) is not None:
                teacher_scores[name.replace("prompt_baseline", "teacher_scores")] = artifact
    return teacher_scores


def _newest(scored: Mapping[str, Artifact]) -> Artifact | None:
    """The newest scores. Older scores on other rows are not compared."""
    return max(scored.values(), key=lambda artifact: artifact.manifest["created"], default=None)


def _newest_evaluation(scored: Mapping[str, Artifact]) -> str | None:
    """The evaluation fingerprint of the newest scores."""
    newest = _newest(scored)
    return newest.summary["rows"][0]["fingerprint"] if newest else None


def _champion_scores(
    context: SpecContext, champion: ChampionRecord, scored: dict[str, Artifact]
) -> tuple[str, Artifact]:
    """Return (asset, its artifact): the champion's scores on the current test rows.

    Raises MissingInput if they are not measured yet. scored: the current scores, which may contain a prompt variant.
    """
    served = champion.evidence["served"]
    base = ("base_model", champion.fingerprints["base_model"])
    if champion.kind == "prompt":
        inputs = {"conversations": context.checked_artifact("conversations").reference, "base_model": base}
        spec = _baseline_spec(context, inputs, {"variants": {champion.name: served}})
        spec = spec.with_code_version(STEPS["prompt_baseline"].code_version)
        existing = next((artifact for artifact in scored.values() if _covers(artifact, spec)), None)
        return "prompt_baseline", existing or context.built_artifact(spec)
    tuned = {key: (key, champion.fingerprints[key]) for key in ("adapter", "merged_model")}
    model_inputs = {"base_model": base, **tuned}
    return "scores", context.built_artifact(_scores_spec(context, model_inputs, served))


def _covers(baseline: Artifact, spec: Spec) -> bool:
    """Whether a prompt baseline scored the variants of `spec`, among others, with the same inputs and settings."""

    def settings_only(spec_json: dict[str, Any]) -> dict[str, Any]:
        config = {key: value for key, value in spec_json["config"].items() if key != "prompting"}
        return {**spec_json, "config": config, "inputs": None, "versions": None}

    required, present = spec.to_json(), baseline.spec
    return (
        baseline.kind == spec.kind
        and settings_only(present) == settings_only(required)
        # Its other variants may have retrieved texts, which the variants of `spec` do not use.
        and required["inputs"].items() <= present["inputs"].items()
        and required["versions"].items() <= present["versions"].items()
        and required["config"]["prompting"]["variants"].items() <= present["config"]["prompting"]["variants"].items()
    )


def _training_facts(build: BuildContext, scores: Mapping[str, ArtifactReference]) -> dict[str, Any]:
    """Experiment → facts about its training. scores: references by `<experiment>/scores`, and others to ignore."""
    return {
        key.removesuffix("/scores"): read_training_facts(build.store, build.store.require(*reference))
        for key, reference in scores.items()
        if key.endswith("/scores") and not key.startswith("champion/")
    }


def _build_comparison(build: BuildContext) -> dict[str, Any]:
    return build_comparison(build.inputs, build.spec.config, build.out, _training_facts(build, build.spec.inputs))


def _build_recommendation(build: BuildContext) -> dict[str, Any]:
    comparison_artifact = build.artifact("comparison")
    comparison = read_comparison(comparison_artifact)
    facts, least = _training_facts(build, comparison_artifact.inputs), build.spec.config["min_test_rows"]
    return build_recommendation(comparison, facts, least, build.out)


def _scores_metadata(artifact: Artifact) -> dict[str, Any]:
    rows = []
    for row in artifact.summary["rows"]:
        values = {metric: score["value"] for metric, score in row["scores"].items()}
        cost = {key: row[key] for key in ("prompt_tokens_per_call", "seconds_per_call", "generated_tokens_per_call")}
        rows.append({"name": row["name"], **values, **(row.get("general") or {}), **cost})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    metadata = {"scores": table([{key: row.get(key, "") for key in keys} for row in rows])}
    notes = artifact.summary.get("notes")
    return metadata | ({"notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in notes))} if notes else {})


def _highest_loss(artifact: Artifact) -> dict[str, Any]:
    """The test answers with the highest loss under the tuned model, for the page of the scores."""
    found = hardest_answers(ArtifactStore(Project.find().store), artifact, None, ROWS_TO_LOOK_AT)
    columns = {**LISTED_ROW_COLUMNS, "answer": "The reference answer, shortened", "model_answer": "The model's answer"}
    rows = [answer.to_json() for answer in found.highest_loss]
    return {"highest_loss": table([{column: row[column] for column in columns} for row in rows], columns)}


def _comparison_metadata(artifact: Artifact) -> dict[str, Any]:
    comparison = read_comparison(artifact)
    learning_curve, leads = learning_curve_picture(comparison), lead_picture(comparison)
    markdown = (artifact.path / "comparison.md").read_text(encoding="utf-8")
    return {
        "comparison": dg.MetadataValue.md(markdown),
        "leads": picture(leads, "leads over the best baseline, with 95 % intervals") if leads else None,
        "picture": picture(score_picture(comparison), "scores with 95 % intervals"),
        "learning_curve": picture(learning_curve, "the primary metric by training rows") if learning_curve else None,
        "test_items": comparison.test_items,
        "best": artifact.summary["best"],
        "left_out": artifact.summary["left_out"],
    }
