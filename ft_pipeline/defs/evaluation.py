"""Evaluation: scores of prompting and tuned models under one harness, their comparison, and a recommendation."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ft_pipeline.defs.distillation import asked_settings
from ft_pipeline.defs.training_chain import base_model_spec, experiment_settings, references, trained_on
from ft_pipeline.evaluation.comparison.compare import build_comparison
from ft_pipeline.evaluation.comparison.plots import learning_curve_picture, score_picture
from ft_pipeline.evaluation.comparison.records import read_comparison
from ft_pipeline.evaluation.comparison.training_facts import read_training_facts, same_recipe
from ft_pipeline.evaluation.metrics.custom_metrics import resolve_metrics
from ft_pipeline.evaluation.recommendation.rules import build_recommendation
from ft_pipeline.evaluation.scoring.task_files import hash_files
from ft_pipeline.execution.metadata import picture, table
from ft_pipeline.execution.step import STEPS, BuildContext, SpecContext, versions_of
from ft_pipeline.execution.step_asset import step
from ft_pipeline.project import read_jsonl
from ft_pipeline.release.champion import ChampionRecord, champion_before, decision_key
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.sweep import sweep_owner
from ft_pipeline.settings.teacher import PriceSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

AS_EVALUATED = {"temperature", "max_new_tokens", "answers_per_prompt", "batch_size"}
"""Settings of the teacher that are ignored while it is scored: there, `evaluation` applies to every row."""
HARNESS = ("lm-eval", "torch", "transformers", "peft", "bitsandbytes", "sacrebleu", "rouge-score")


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "text"],
    code_version="3",
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _show_scores(artifact),
)
def prompt_baseline(at: SpecContext) -> Spec:
    """Scores of the base model under each prompt variant: plain, with a system prompt, with examples, with retrieved
    passages. Also scores the teacher, if it is another model."""
    experiment_settings(at)
    inputs = {"conversations": at.passed("conversations"), "base_model": at.artifact("base_model")}
    if (teacher := _teacher_spec(at, references(inputs))) is not None:
        at.built(teacher)  # once per base model; `comparison` finds it by the same spec
    return _baseline_spec(at, references(inputs), at.project.settings.prompting.model_dump(mode="json"))


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "adapter", "merged_model"],
    code_version="3",
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _show_scores(artifact),
)
def scores(at: SpecContext) -> Spec:
    """Scores of the adapter and the merged model: same harness, template and rows as the prompt baseline."""
    trained = at.artifact("adapter")
    inputs = {
        "base_model": trained_on(at, trained),
        "adapter": trained,
        "merged_model": at.passed("merged_model"),
    }
    return _scores_spec(at, references(inputs), _served(experiment_settings(at)))


@step(
    stage="evaluation",
    deps=["prompt_baseline", "scores"],
    kinds={"json", "markdown"},
    code_version="3",
    build=lambda making: _build_comparison(making),
    show=lambda artifact: _show_comparison(artifact),
)
def comparison(at: SpecContext) -> Spec:
    """All models and prompt variants in one table, with paired 95 % intervals and the cost per call."""
    scored, stale = _scored(at)
    inputs = references(scored | _teachers(at, scored))
    settings = at.project.settings
    config: dict[str, Any] = {
        "fingerprint": _present_evaluation(scored),
        "bootstrap_resamples": settings.evaluation.bootstrap_resamples,
        "seed": settings.evaluation.seed,
        "primary_metric": settings.promotion.metric,
        "prices": settings.costs.model_dump(mode="json"),
        **({"stale": stale} if stale else {}),
    }
    standing = champion_before(at.store.root, decision_key(inputs, config))
    if standing is not None:
        asset, artifact = _champion_scores(at, standing, scored)
        inputs[f"champion/{asset}"] = artifact.reference
        config["champion"] = {key: getattr(standing, key) for key in ("name", "experiment", "fingerprint")}
    return Spec("comparison", inputs, config, versions_of("numpy"))


@step(
    stage="evaluation",
    deps=["comparison"],
    kinds={"json"},
    build=lambda making: _build_recommendation(making),
    show=lambda artifact: {
        "decision": artifact.summary["decision"],
        "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in artifact.summary["reasons"])),
        "evidence": artifact.summary["evidence"],
    },
)
def recommendation(at: SpecContext) -> Spec:
    """Whether to fine-tune, how, and why: the result of rules on the measured scores and the data."""
    margin = at.project.settings.promotion.forgetting_margin
    return Spec("recommendation", {"comparison": at.artifact("comparison").reference}, {"forgetting_margin": margin})


def _scored(at: SpecContext) -> tuple[dict[str, Artifact], list[str]]:
    """Return the current scores by `<experiment>/<asset>`, and the experiments that are left out.

    Left out: members of a sweep (settings/sweep.py) whose experiment was since trained differently or on other data.
    """
    scored: dict[str, Artifact] = {}
    stale = []
    for name in at.project.experiment_names():  # an experiment comes before its sweep members
        own, owner = at.find("scores", name), sweep_owner(name)
        known = scored.get(f"{owner}/scores")
        if own is not None and known is not None and not same_recipe(at.store, known, own):
            stale.append(name)
            continue
        baseline = at.find("prompt_baseline", name) if f"{owner}/prompt_baseline" not in scored else None
        artifacts = {"prompt_baseline": baseline, "scores": own}
        scored |= {f"{name}/{asset}": artifact for asset, artifact in artifacts.items() if artifact is not None}
    return scored, stale


def _evaluation(at: SpecContext) -> dict[str, Any]:
    settings = at.project.settings.evaluation
    return {
        "evaluation": settings.model_dump(
            mode="json", exclude={"general_questions", "general_texts", "bootstrap_resamples"}
        ),
        "general_questions": read_jsonl(at.project.inside(settings.general_questions)),
        "general_texts": read_jsonl(at.project.inside(settings.general_texts)),
        "custom_metrics": resolve_metrics(at.project.root, settings.metrics),
        "task_files": _task_files(at),
    }


def _task_files(at: SpecContext) -> dict[str, str]:
    """The files of evaluation.include_path, if the settings name tasks."""
    settings = at.project.settings.evaluation
    return hash_files(at.project.inside(settings.include_path)) if settings.tasks and settings.include_path else {}


def _task_inputs(at: SpecContext) -> dict[str, tuple[str, str]]:
    """A copy of those files in the store, as an input of the steps that run them."""
    files = _task_files(at)
    if not files:
        return {}
    folder = str(at.project.inside(at.project.settings.evaluation.include_path or ""))
    return {"tasks": at.built(Spec("evaluation_tasks", config={"files": files}, handling={"folder": folder})).reference}


def _served(settings: ExperimentSettings) -> dict[str, Any]:
    """How a tuned model is loaded and prompted."""
    quantization = settings.quantization.model_dump(mode="json") if settings.technique == "qlora" else None
    return {"technique": settings.technique, "quantization": quantization, "system_prompt": settings.data.system_prompt}


def _scores_spec(at: SpecContext, parts: dict[str, tuple[str, str]], served: dict[str, Any]) -> Spec:
    inputs = {"conversations": at.passed("conversations").reference, **parts, **_task_inputs(at)}
    return Spec("scores", inputs, {**_evaluation(at), **served}, versions_of(*HARNESS))


def _baseline_spec(at: SpecContext, inputs: dict[str, tuple[str, str]], prompting: dict[str, Any]) -> Spec:
    """The spec of a prompt baseline.

    The texts are an input only if a variant retrieves passages, so that a new text never rescores the other variants.
    """
    versions = [*HARNESS]
    variants = prompting["variants"].values()
    if any(variant.get("passages") for variant in variants):
        inputs = {**inputs, "text": at.passed("text").reference}
    if any(variant.get("passages") or variant.get("examples") == "retrieved" for variant in variants):
        versions.append("bm25s")
    inputs = {**inputs, **_task_inputs(at)}
    return Spec("prompt_baseline", inputs, {**_evaluation(at), "prompting": prompting}, versions_of(*versions))


def _teacher_spec(at: SpecContext, scored: dict[str, tuple[str, str]]) -> Spec | None:
    """The spec of the teacher's scores on the test prompts, with the tokenizer of a base model.

    None if the teacher has no row in the comparison: it is not wanted there, or it is the base model itself.
    scored: `conversations` and `base_model` of the rows that the teacher is compared with.
    """
    teacher = at.project.settings.teacher
    if not teacher.in_comparison:
        return None
    inputs = {name: scored[name] for name in ("conversations", "base_model")}
    if teacher.endpoint is None:
        model = at.built(base_model_spec(teacher.model, teacher.revision)).reference
        if model == inputs["base_model"]:
            return None
        inputs["teacher_model"] = model
    asked, handling = asked_settings(teacher)
    asked = {key: value for key, value in asked.items() if key not in AS_EVALUATED}
    prices = teacher.endpoint.prices if teacher.endpoint else PriceSettings()
    config = {**_evaluation(at), "teacher": asked, "name": teacher.model, "prices": prices.model_dump(mode="json")}
    return Spec("teacher_scores", inputs, config, versions_of("sacrebleu", "rouge-score"), handling=handling)


def _teachers(at: SpecContext, scored: dict[str, Artifact]) -> dict[str, Artifact]:
    """The teacher's scores for each prompt baseline that was measured, as far as the store has them."""
    teachers = {}
    for name, baseline in scored.items():
        if name.endswith("/prompt_baseline"):
            spec = _teacher_spec(at, baseline.inputs)
            if spec is not None and (artifact := at.store.find(spec)) is not None:
                teachers[name.replace("prompt_baseline", "teacher_scores")] = artifact
    return teachers


def _present_evaluation(scored: dict[str, Artifact]) -> str | None:
    """The evaluation fingerprint of the newest scores. Older scores on other rows are not compared."""
    newest = max(scored.values(), key=lambda artifact: artifact.manifest["created"], default=None)
    return newest.summary["rows"][0]["fingerprint"] if newest else None


def _champion_scores(at: SpecContext, champion: ChampionRecord, scored: dict[str, Artifact]) -> tuple[str, Artifact]:
    """Return (asset, its artifact): the champion's scores on the current test rows, measured now if they are missing.

    scored: the current scores. A prompt variant that is already in one of them needs no model.
    """
    served = champion.evidence["served"]
    base = ("base_model", champion.fingerprints["base_model"])
    if champion.kind == "prompt":
        inputs = {"conversations": at.passed("conversations").reference, "base_model": base}
        spec = _baseline_spec(at, inputs, {"variants": {champion.name: served}})
        spec = spec.with_code_version(STEPS["prompt_baseline"].code_version)
        known = next((artifact for artifact in scored.values() if _covers(artifact, spec)), None)
        return "prompt_baseline", known or at.built(spec)
    parts = {"base_model": base} | {key: (key, champion.fingerprints[key]) for key in ("adapter", "merged_model")}
    return "scores", at.built(_scores_spec(at, parts, served))


def _covers(found: Artifact, wanted: Spec) -> bool:
    """Whether a prompt baseline scored the variants of `wanted`, among others, with the same inputs and settings."""

    def rest(spec: dict[str, Any]) -> dict[str, Any]:
        config = {key: value for key, value in spec["config"].items() if key != "prompting"}
        return {**spec, "config": config, "inputs": None, "versions": None}

    asked, there = wanted.to_json(), found.spec
    return (
        found.kind == wanted.kind
        and rest(there) == rest(asked)
        # Its other variants may have retrieved texts, which the variants of `wanted` do not use.
        and asked["inputs"].items() <= there["inputs"].items()
        and asked["versions"].items() <= there["versions"].items()
        and asked["config"]["prompting"]["variants"].items() <= there["config"]["prompting"]["variants"].items()
    )


def _experiments(making: BuildContext, scores: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Experiment → facts about its training. scores: references by `<experiment>/scores` and other keys."""
    return {
        key.removesuffix("/scores"): read_training_facts(making.store, making.store.require(*reference))
        for key, reference in scores.items()
        if key.endswith("/scores") and not key.startswith("champion/")
    }


def _build_comparison(making: BuildContext) -> dict[str, Any]:
    return build_comparison(making.inputs, making.spec.config, making.out, _experiments(making, making.spec.inputs))


def _build_recommendation(making: BuildContext) -> dict[str, Any]:
    compared = making.artifact("comparison")
    comparison, margin = read_comparison(compared), making.spec.config["forgetting_margin"]
    return build_recommendation(comparison, _experiments(making, compared.inputs), margin, making.out)


def _show_scores(artifact: Artifact) -> dict[str, Any]:
    rows = []
    for row in artifact.summary["rows"]:
        values = {metric: score["value"] for metric, score in row["scores"].items()}
        cost = {key: row[key] for key in ("prompt_tokens_per_call", "seconds_per_call", "generated_tokens_per_call")}
        rows.append({"name": row["name"], **values, **(row.get("general") or {}), **cost})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return {"scores": table([{key: row.get(key, "") for key in keys} for row in rows])}


def _show_comparison(artifact: Artifact) -> dict[str, Any]:
    comparison = read_comparison(artifact)
    curve = learning_curve_picture(comparison)
    markdown = (artifact.path / "comparison.md").read_text(encoding="utf-8")
    return {
        "comparison": dg.MetadataValue.md(markdown),
        "picture": picture(score_picture(comparison), "scores with 95 % intervals"),
        **({"learning_curve": picture(curve, "the primary metric by training rows")} if curve else {}),
        "test_items": comparison.test_items,
        "best": artifact.summary["best"],
        "left_out": artifact.summary["left_out"],
    }
