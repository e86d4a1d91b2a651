"""Evaluation: scores of prompting and tuned models under one harness, their comparison, and a recommendation."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import dagster as dg

from ft_pipeline.defs.gguf_specs import NOTHING, gguf_scores_spec, types_of
from ft_pipeline.defs.opinion_inputs import judge_said, people_said
from ft_pipeline.defs.scoring_specs import (
    base_names,
    base_of,
    baseline_spec,
    contender_artifacts,
    covers,
    scores_spec,
    served_settings,
    teacher_spec,
)
from ft_pipeline.defs.training_chain import base_model_of, experiment_settings, references
from ft_pipeline.evaluation.comparison.check_results import Confusion, FieldResults, results_of_scores
from ft_pipeline.evaluation.comparison.compare import build_comparison
from ft_pipeline.evaluation.comparison.contaminated_models import Facts, find_contaminated
from ft_pipeline.evaluation.comparison.deciding_metric import AUTO
from ft_pipeline.evaluation.comparison.markdown import field_tables
from ft_pipeline.evaluation.comparison.plots import (
    confusion_picture,
    lead_picture,
    learning_curve_picture,
    score_picture,
    slice_picture,
)
from ft_pipeline.evaluation.comparison.records import read_comparison
from ft_pipeline.evaluation.comparison.row_records import Score, describe_score
from ft_pipeline.evaluation.comparison.slice_members import scored_conversations
from ft_pipeline.evaluation.comparison.training_facts import same_recipe, training_facts_of
from ft_pipeline.evaluation.highest_loss import hardest_answers
from ft_pipeline.evaluation.opinions.collect import JUDGED
from ft_pipeline.evaluation.scoring.probe_files import probe_digests, read_probes
from ft_pipeline.execution.metadata import picture, table
from ft_pipeline.execution.step import STEPS, BuildContext, CheckSpec, SpecContext, versions_of
from ft_pipeline.execution.step_asset import step
from ft_pipeline.models.base_model import EMBEDDED
from ft_pipeline.project import Project
from ft_pipeline.release.champion import ChampionRecord, champion_before, decision_key
from ft_pipeline.settings.checks import ClassificationMetric
from ft_pipeline.settings.gguf_types import in_order
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.sweep import sweep_owner
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import ArtifactReference, Spec
from ft_pipeline.tables.inspection import LISTED_ROW_COLUMNS

ROWS_TO_LOOK_AT = 5
"""Number of test answers with the highest loss that a page shows."""


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "text"],
    code_version="4",
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _scores_metadata(artifact),
)
def prompt_baseline(context: SpecContext) -> Spec:
    """Scores of the base model under each prompt variant: plain, with a system prompt, with examples, with retrieved
    passages. Also scores the teacher, if it is another model."""
    experiment_settings(context)
    inputs = {"conversations": context.checked_artifact("conversations"), "base_model": context.artifact("base_model")}
    if (teacher := teacher_spec(context, references(inputs))) is not None:
        context.built_artifact(teacher)  # once per base model; `comparison` finds it by the same spec
    prompting = context.project.settings.prompting.model_dump(mode="json", include={"variants"})
    return baseline_spec(context, references(inputs), prompting)


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "text", "adapter", "merged_model"],
    code_version="4",
    kinds={"pytorch", "huggingface"},
    gpu=True,
    show=lambda artifact: _scores_metadata(artifact) | _highest_loss(artifact),
)
def scores(context: SpecContext) -> Spec:
    """Scores of the adapter and the merged model: same harness, template and rows as the prompt baseline. Also under
    the prompt variants of `prompting.tuned_with`."""
    adapter = context.artifact("adapter")
    inputs = {
        "base_model": base_model_of(context, adapter),
        "adapter": adapter,
        "merged_model": context.checked_artifact("merged_model"),
    }
    served = served_settings(experiment_settings(context), context.project.settings.prompting)
    return scores_spec(context, references(inputs), served)


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "merged_model", "scores", "gguf"],
    kinds={"gguf"},
    checks=[CheckSpec("gguf_gate", "Each GGUF file costs no more than evaluation.gguf allows.", False, optional=True)],
    build=lambda build: _no_gguf_scores(build),
    builds_here=lambda spec: not spec.inputs,
    show=lambda artifact: _gguf_scores_metadata(artifact),
)
def gguf_scores(context: SpecContext) -> Spec:
    """Scores of the GGUF files by llama.cpp on the rows of `scores`, and what each costs against the merged model."""
    files = context.artifact("gguf")
    if not types_of(files):
        return Spec("gguf_scores", config=NOTHING)
    return gguf_scores_spec(context, files, context.artifact("scores"))


@step(
    stage="evaluation",
    deps=["prompt_baseline", "scores", "gguf_scores", "ratings", "judgements"],
    kinds={"json", "markdown"},
    code_version="7",
    may_use_gpu=True,  # scores the champion and the contenders that have no score on the current test rows
    build=lambda build: _build_comparison(build),
    show=lambda artifact: _comparison_metadata(artifact),
)
def comparison(context: SpecContext) -> Spec:
    """All models and prompt variants in one table, with paired 95 % intervals and the cost per call."""
    compared = compared_scores(context)
    inputs, config = dict(compared.inputs), dict(compared.config)
    judged = judge_said(context)
    inputs |= references(people_said(context) | judged)
    if JUDGED in judged and (problem := judged[JUDGED].summary["problem"]):
        config["not_asked"] = [*config.get("not_asked", ()), problem]
    return Spec("comparison", inputs, config, versions_of("numpy", "scipy"))


class ComparedScores(NamedTuple):
    """The scores that are compared, and the settings that say how."""

    inputs: dict[str, ArtifactReference]
    config: dict[str, Any]
    """As build_comparison expects it."""
    newest: Artifact | None
    """The newest of these scores, whose test rows are those of the comparison. None: nothing was scored."""


def compared_scores(context: SpecContext) -> ComparedScores:
    """Return the current scores of all models. MissingInput if those of the champion or a contender are not measured
    yet."""
    scored, stale = _current_scores(context)
    newest = _newest(scored)
    contenders, not_asked = contender_artifacts(context, newest)
    inputs = references(scored | _teacher_scores(context, scored) | contenders | _gguf_scores(context, scored))
    settings = context.project.settings
    with_base = scored | {name: made for name, made in contenders.items() if name.endswith("/prompt_baseline")}
    bases = {name: base_of(context.store, artifact) for name, artifact in sorted(with_base.items())}
    config: dict[str, Any] = {
        "fingerprint": _newest_evaluation(scored),
        **_deciding_metric(settings),
        "prices": settings.costs.model_dump(mode="json"),
        "forgetting_margin": settings.promotion.forgetting_margin,
        "rails": settings.promotion.rails,
        "keeps": settings.promotion.keeps,
        "bases": dict(bases),
        **_must_keep(context),
        **({"stale": stale} if stale else {}),
    }
    if slices := settings.evaluation.slices:
        config["slices"] = {name: rule.model_dump(mode="json", exclude_defaults=True) for name, rule in slices.items()}
    if contaminated := _contaminated_experiments(context, scored):
        config["contaminated"] = contaminated
    if about := _about_contenders(settings):
        config["contenders"] = about
    if not_asked:
        config["not_asked"] = not_asked
    if settings.evaluation.judge:
        config["judge"] = settings.evaluation.judge.model_dump(mode="json", include={"model", "rubric"})
    previous_champion = champion_before(context.store.root, _key_of_decision(context, inputs, config))
    if previous_champion is not None:
        config["champion"] = {key: getattr(previous_champion, key) for key in ("name", "experiment", "fingerprint")}
        if facts := _contaminated_champion(context, previous_champion):
            config["champion"]["contaminated"] = facts
        else:
            asset, artifact = _champion_scores(context, previous_champion, scored)
            inputs[f"champion/{asset}"] = artifact.reference
            config["champion"]["base_model"] = bases["champion"] = base_of(context.store, artifact)
    config["base_names"] = base_names(context.store, bases.values())
    config["first"] = [name for name in with_base if config["base_names"][bases[name]] == EMBEDDED]
    return ComparedScores(inputs, config, newest)


def _key_of_decision(context: SpecContext, inputs: Mapping[str, ArtifactReference], config: Mapping[str, Any]) -> str:
    """The decision key of the comparison of these scores: with further ratings, it is another decision."""
    return decision_key({**inputs, **references(people_said(context))}, config)


def _deciding_metric(settings: ProjectSettings) -> dict[str, Any]:
    """The settings of a comparison that say which metric decides."""
    metric, own = settings.promotion.metric, settings.evaluation.metrics
    decides = next((name for name, metric_settings in own.items() if metric_settings.decides), None)
    config: dict[str, Any] = {"primary_metric": AUTO if metric == "loss" else metric, "decides": decides}
    if metric == "loss":
        config["notice"] = "`promotion.metric: loss` now means `auto`."
    labels = {
        name: own_metric.labels for name, own_metric in own.items() if isinstance(own_metric, ClassificationMetric)
    }
    if labels:
        config["labels"] = labels
    margins = {name: getattr(settings.promotion, name) for name in ("answers_margin", "incumbent_margin")}
    return {**config, **margins}


def _must_keep(context: SpecContext) -> dict[str, Any]:
    """What tuned models must keep of their base models: probes with what is wanted of the answers, and tasks with their
    margins. Without them, nothing."""
    settings = context.project.settings.evaluation
    digests = probe_digests(read_probes(settings.probes, context.project.resolve_path))
    probes = {
        name: {**entry.model_dump(mode="json", exclude={"file"}), "digest": digests[name]}
        for name, entry in settings.probes.items()
    }
    must_hold = settings.tasks_that_must_hold()
    return {**({"probes": probes} if probes else {}), **({"must_hold": must_hold} if must_hold else {})}


def _about_contenders(settings: ProjectSettings) -> dict[str, Any]:
    """By contender, whether it answers today, and when it ends."""
    return {
        contender.name: contender.model_dump(mode="json", include={"incumbent", "ends"})
        for contender in settings.evaluation.contenders
        if contender.incumbent or contender.ends
    }


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


def _teacher_scores(context: SpecContext, scored: dict[str, Artifact]) -> dict[str, Artifact]:
    """The teacher's scores for each prompt baseline that was measured, as far as the store has them."""
    teacher_scores = {}
    for name, baseline in scored.items():
        if name.endswith("/prompt_baseline"):
            spec = teacher_spec(context, baseline.inputs)
            if spec is not None and (artifact := context.store.find(spec)) is not None:
                teacher_scores[name.replace("prompt_baseline", "teacher_scores")] = artifact
    return teacher_scores


def _gguf_scores(context: SpecContext, scored: dict[str, Artifact]) -> dict[str, Artifact]:
    """The scores of GGUF files by `<experiment>/gguf_scores`, of each merged model that is compared."""
    found = {}
    for name in context.project.experiment_names():
        scores, made = scored.get(f"{name}/scores"), context.find("gguf_scores", name)
        if scores and made and made.inputs.get("merged_model") == scores.inputs["merged_model"]:
            found[f"{name}/gguf_scores"] = made
    return found


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
    served, frozen = champion.evidence["served"], champion.fingerprints
    base = ("base_model", champion.fingerprints["base_model"])
    if champion.kind == "prompt":
        inputs = {"conversations": context.checked_artifact("conversations").reference, "base_model": base}
        spec = baseline_spec(context, inputs, {"variants": {champion.name.partition("@")[0]: served}}, frozen)
    else:
        tuned = {key: (key, champion.fingerprints[key]) for key in ("adapter", "merged_model")}
        of_the_model = {key: value for key, value in served.items() if key != "variant"}
        spec = scores_spec(context, {"base_model": base, **tuned}, of_the_model, frozen)
    spec = spec.with_code_version(STEPS[spec.kind].code_version)
    existing = next((artifact for artifact in scored.values() if covers(artifact, spec)), None)
    return spec.kind, existing or context.built_artifact(spec)


def _build_comparison(build: BuildContext) -> dict[str, Any]:
    config, inputs = build.spec.config, build.spec.inputs
    conversations = scored_conversations(build.store, inputs, config["fingerprint"])
    return build_comparison(build.inputs, config, build.out, training_facts_of(build.store, inputs), conversations)


def _no_gguf_scores(build: BuildContext) -> dict[str, Any]:
    document: dict[str, Any] = {"rows": [], "evaluation": {}, "metrics": {}}
    (build.out / "scores.json").write_text(json.dumps(document), encoding="utf-8")
    return {"rows": [], "costs": {}}


def _gguf_scores_metadata(artifact: Artifact) -> dict[str, Any]:
    if not artifact.summary["rows"]:
        return {}
    measured = artifact.summary["costs"]
    costs = [
        {
            "type": name,
            **{measure: describe_score(Score.from_json(cost), 4) for measure, cost in measured[name].items()},
        }
        for name in in_order(measured)
    ]
    return {**_scores_metadata(artifact), "costs": table(costs)}


def _scores_metadata(artifact: Artifact) -> dict[str, Any]:
    rows = []
    for row in artifact.summary["rows"]:
        values = {metric: score["value"] for metric, score in row["scores"].items()}
        cost = {key: row[key] for key in ("prompt_tokens_per_call", "seconds_per_call", "generated_tokens_per_call")}
        rows.append({"name": row["name"], **values, **(row.get("general") or {}), **cost})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    metadata = {"scores": table([{key: row.get(key, "") for key in keys} for row in rows]), **_check_metadata(artifact)}
    notes = artifact.summary.get("notes")
    return metadata | ({"notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in notes))} if notes else {})


def _check_metadata(artifact: Artifact) -> dict[str, Any]:
    """What the checks of the project found in the answers: the fields that are right, and the labels."""
    settings = artifact.spec["config"].get("custom_metrics", {})
    labels = {name: entry["labels"] for name, entry in settings.items() if "labels" in entry}
    fields, matrices = results_of_scores(artifact.path, labels)
    results: list[FieldResults | Confusion] = [*fields, *matrices]
    worst = [sentence for result in results for sentence in result.describe_worst()]
    drawn = confusion_picture(matrices)
    metadata: dict[str, Any] = {}
    if fields or worst:
        metadata["checks"] = dg.MetadataValue.md("\n\n".join([*field_tables(fields), *worst]))
    return metadata | ({"labels": picture(drawn, "labels of the references and of the answers")} if drawn else {})


def _highest_loss(artifact: Artifact) -> dict[str, Any]:
    """The test answers with the highest loss under the tuned model, for the page of the scores."""
    found = hardest_answers(ArtifactStore(Project.find().store), artifact, None, ROWS_TO_LOOK_AT)
    columns = {**LISTED_ROW_COLUMNS, "answer": "The reference answer, shortened", "model_answer": "The model's answer"}
    rows = [answer.to_json() for answer in found.highest_loss]
    return {"highest_loss": table([{column: row[column] for column in columns} for row in rows], columns)}


def _comparison_metadata(artifact: Artifact) -> dict[str, Any]:
    comparison = read_comparison(artifact)
    learning_curve, leads = learning_curve_picture(comparison), lead_picture(comparison)
    slices = slice_picture(comparison)
    best = comparison.rows[0].name
    labels = confusion_picture([matrix for matrix in comparison.confusions if matrix.row == best])
    markdown = (artifact.path / "comparison.md").read_text(encoding="utf-8")
    return {
        "comparison": dg.MetadataValue.md(markdown),
        "leads": picture(leads, "leads over the best baseline, with 95 % intervals") if leads else None,
        "picture": picture(score_picture(comparison), "scores with 95 % intervals"),
        "learning_curve": picture(learning_curve, "the primary metric by training rows") if learning_curve else None,
        "slices": picture(slices, "leads in slices, with 95 % intervals") if slices else None,
        "labels": picture(labels, "labels of the references and of the best row's answers") if labels else None,
        "test_items": comparison.test_items,
        "best": artifact.summary["best"],
        "left_out": artifact.summary["left_out"],
    }
