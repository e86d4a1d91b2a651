"""Evaluation: scores of prompting and tuned models under one harness, their comparison, and a recommendation."""

import json
from typing import Any

from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.markdown import field_tables
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.decide.plots import (
    confusion_picture,
    learning_curve_picture,
    score_picture,
    shown_leads,
    slice_picture,
    small_lead_plot,
)
from ft_pipeline.decide.seen import may_be_screened_out, records_of_validation
from ft_pipeline.decide.sources.pair_opinions import JUDGED
from ft_pipeline.decide.sources.screens import score_on_validation
from ft_pipeline.defs.compared_scores import compared_scores
from ft_pipeline.defs.gguf_specs import gguf_scores_spec
from ft_pipeline.defs.opinion_inputs import judge_said, people_said
from ft_pipeline.defs.scoring_specs import (
    baseline_spec,
    scores_spec,
    served_settings,
    teacher_spec,
)
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResults
from ft_pipeline.evaluation.comparison.check_results import results_of_scores
from ft_pipeline.evaluation.comparison.score import Score, describe_score
from ft_pipeline.evaluation.comparison.slice_members import scored_conversations
from ft_pipeline.evaluation.comparison.training_facts import training_facts_of
from ft_pipeline.evaluation.highest_loss import hardest_answers
from ft_pipeline.evaluation.prompt_search.looks import write_look
from ft_pipeline.evaluation.tuned_variants import with_variant
from ft_pipeline.execution.step_asset import asset_of, step
from ft_pipeline.page import Hidden, Image, Page, Picture, Points, Table, beginning_with
from ft_pipeline.project import Project
from ft_pipeline.release.looks import (
    decided_by,
    ids_of_test_rows,
    write_looks_at_comparison,
    write_looks_at_scores,
)
from ft_pipeline.settings.gguf_types import in_order
from ft_pipeline.settings.prompt_variant import SEARCHED
from ft_pipeline.settings.sweep import is_sweep_member
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, references, versions_of
from ft_pipeline.steps.gguf import NOTHING, types_of
from ft_pipeline.steps.merged_model import base_model_of
from ft_pipeline.steps.phases import experiment_settings
from ft_pipeline.steps.searched_prompt import STEP as SEARCHED_PROMPT
from ft_pipeline.steps.searched_prompt import found_by, tuned_spec
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.inspection import LISTED_ROW_COLUMNS

COSTS = ("prompt_tokens_per_call", "seconds_per_call", "generated_tokens_per_call")
TESTS_ARE_COMPARED = "`comparison` shows the test scores, if the model leads on the validation rows."
ROWS_TO_LOOK_AT = 5
"""Number of test answers with the highest loss that a page shows."""


searched_prompt = asset_of(SEARCHED_PROMPT)


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "text", "searched_prompt"],
    code_version="4",
    kinds={"pytorch", "huggingface"},
    gpu=True,
    look=lambda context, artifact: _look_at_scores(context, artifact),
    show=lambda artifact: _scores_metadata(artifact),
)
def prompt_baseline(context: SpecContext) -> Spec:
    """How good the model is without training: plain, with a system prompt, with examples, with retrieved passages.

    **Look here** for the scores that a tuned model has to beat. The teacher is scored too, if it is another model.

    **If it fails:** memory ran out, or a prompt is longer than the model's context. Run it again: finished parts
    are kept.
    """
    experiment_settings(context)
    inputs = {"conversations": context.checked_artifact("conversations"), "base_model": context.artifact("base_model")}
    if (teacher := teacher_spec(context, references(inputs))) is not None:
        context.built_artifact(teacher)  # once per base model; `comparison` finds it by the same spec
    prompts = context.project.settings.scored_prompts()
    variants = {name: variant.model_dump(mode="json") for name, variant in prompts.items()}
    if context.project.settings.prompting.search is not None:
        found = context.artifact("searched_prompt")
        if found.summary.get("row") == SEARCHED:  # there is no row if no search was asked for when it was made
            inputs["searched_prompt"], variants[SEARCHED] = found, found.summary["variant"]
    return baseline_spec(context, references(inputs), {"variants": variants})


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "text", "adapter", "merged_model"],
    code_version="4",
    kinds={"pytorch", "huggingface"},
    gpu=True,
    look=lambda context, artifact: _look_at_scores(context, artifact),
    show=lambda artifact: _tuned_scores_metadata(artifact),
)
def scores(context: SpecContext) -> Spec:
    """How good the trained model is, on the same test rows and with the same harness as `prompt_baseline`.

    **Look here** for the likelihood of the validation rows under the adapter and the merged model. `comparison` shows
    the test scores of models that lead there, and says whether the difference is more than noise.

    **If it fails:** memory ran out, or the model's context is too short. Run it again: finished parts are kept.
    """
    adapter = context.artifact("adapter")
    inputs = {
        "base_model": base_model_of(context, adapter),
        "adapter": adapter,
        "merged_model": context.checked_artifact("merged_model"),
    }
    served = served_settings(experiment_settings(context), context.project.settings.prompting)
    if (search := tuned_spec(context)) is not None:
        found = context.built_artifact(search)
        inputs["searched_prompt"] = found
        if found.summary.get("row") == SEARCHED:
            served = with_variant(served, SEARCHED, found.summary["variant"])
    return scores_spec(context, references(inputs), served)


@step(
    stage="evaluation",
    per_experiment=True,
    deps=["experiment", "base_model", "conversations", "merged_model", "scores", "gguf"],
    kinds={"gguf"},
    code_version="2",
    checks=[CheckSpec("gguf_gate", "Each GGUF file costs no more than evaluation.gguf allows.", False, optional=True)],
    build=lambda build: _no_gguf_scores(build),
    builds_here=lambda spec: not spec.inputs,
    show=lambda artifact: _gguf_scores_metadata(artifact),
)
def gguf_scores(context: SpecContext) -> Spec:
    """How good each GGUF file is, answered by llama.cpp, and what its quantization costs. Empty without GGUF files.

    **Look here** before you deploy a small file.

    **If `gguf_gate` is yellow:** a file costs more than `evaluation.gguf` allows. Take a larger type (docs/gguf.md).
    """
    files = context.artifact("gguf")
    if not types_of(files):
        return Spec("gguf_scores", config=NOTHING)
    return gguf_scores_spec(context, files, context.artifact("scores"))


@step(
    stage="evaluation",
    deps=["prompt_baseline", "scores", "gguf_scores", "ratings", "judgements"],
    kinds={"json", "markdown"},
    code_version="13",
    may_use_gpu=True,  # scores the champion and the contenders that have no score on the current test rows
    build=lambda build: _build_comparison(build),
    look=lambda context, artifact: write_looks_at_comparison(
        context.store, artifact, decided_by(context.project.settings), ids_of_test_rows(artifact)
    ),
    show=lambda artifact: _comparison_metadata(artifact),
)
def comparison(context: SpecContext) -> Spec:
    """Every model and prompt in one table, on the same test rows, with 95 % intervals and the costs of a call.

    **Look here** at `leads`: a bar right of the line is better than the best untouched use of the model. One that
    crosses the line may be chance.

    **If it fails:** there are no scores on the current test rows yet. Run `ft run` (docs/evaluation.md).
    """
    compared = compared_scores(context)
    inputs, config = dict(compared.inputs), dict(compared.config)
    judged = judge_said(context)
    inputs |= references(people_said(context) | judged)
    if JUDGED in judged and (problem := judged[JUDGED].summary["problem"]):
        config["not_asked"] = [*config.get("not_asked", ()), problem]
    return Spec("comparison", inputs, config, versions_of("numpy", "scipy"))


def _look_at_scores(context: SpecContext, artifact: Artifact) -> None:
    """Record a look at each model and prompt of some scores. Members of a sweep are never released."""
    experiment = context.experiment or ""
    if SEARCHED_PROMPT.name in artifact.inputs:
        write_look(context.store.root, context.store.require(*artifact.inputs[SEARCHED_PROMPT.name]))
    if not is_sweep_member(experiment):
        write_looks_at_scores(context.store, artifact, experiment, decided_by(context.project.settings))


def _build_comparison(build: BuildContext) -> dict[str, Any]:
    config, inputs = build.spec.config, build.spec.inputs
    conversations = scored_conversations(build.store, inputs, config["fingerprint"])
    has_price = config.get("prices", {}).get("label") is not None
    facts = training_facts_of(build.store, inputs, count_labels=has_price)
    return build_comparison(build.inputs, config, build.out, facts, conversations)


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
            **{measure: describe_score(Score(**cost), 4) for measure, cost in measured[name].items()},
        }
        for name in in_order(measured)
    ]
    of_merged = ArtifactStore(Project.find().store).open(*artifact.inputs["scores"])
    if of_merged is None or may_be_screened_out(of_merged.path):
        return {"costs": Table(costs), "notes": Points([TESTS_ARE_COMPARED])}
    return {"costs": Table(costs), **_scores_metadata(artifact)}


def _scores_metadata(artifact: Artifact) -> dict[str, Any]:
    rows = []
    for row in artifact.summary["rows"]:
        values = {metric: score["value"] for metric, score in row["scores"].items()}
        cost = {key: row[key] for key in COSTS}
        rows.append({"name": row["name"], **values, **(row.get("general") or {}), **cost})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    metadata = {"scores": Table([{key: row.get(key, "") for key in keys} for row in rows]), **_check_metadata(artifact)}
    return metadata | {"notes": Points(artifact.summary.get("notes") or [])}


def _tuned_scores_metadata(artifact: Artifact) -> Page:
    """Of a model that the comparison may screen out, the scores on the validation rows; of others, all scores."""
    searched = _searched(artifact)
    if not may_be_screened_out(artifact.path):
        return {**_scores_metadata(artifact), **_highest_loss(artifact), **searched}
    records = records_of_validation(artifact.path)
    validation = {name: score_on_validation(own) for name, own in records.items()}
    rows = [
        {
            "name": row["name"],
            "nats_per_byte_of_validation": score.value if (score := validation.get(row["name"])) else "",
            **(row.get("general") or {}),
            **{key: row[key] for key in COSTS},
        }
        for row in artifact.summary["rows"]
    ]
    notes = [*(artifact.summary.get("notes") or []), TESTS_ARE_COMPARED]
    return {"scores": Table(rows), "notes": Points(notes), **searched}


def _searched(artifact: Artifact) -> Page:
    """What the search of a prompt for the tuned model tried; empty without one."""
    if SEARCHED_PROMPT.name not in artifact.inputs:
        return {}
    store = ArtifactStore(artifact.path.parents[3])
    return found_by(store.require(*artifact.inputs[SEARCHED_PROMPT.name]))


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
        metadata |= {"checks": Points(worst)}
        metadata["all_checks"] = Hidden("\n\n".join([*field_tables(fields), *worst]))
    return metadata | ({"labels": Image(drawn, "labels of the references and of the answers")} if drawn else {})


def _highest_loss(artifact: Artifact) -> dict[str, Any]:
    """The test answers with the highest loss under the tuned model, for the page of the scores."""
    found = hardest_answers(ArtifactStore(Project.find().store), artifact, None, ROWS_TO_LOOK_AT)
    columns = {**LISTED_ROW_COLUMNS, "answer": "The reference answer, shortened", "model_answer": "The model's answer"}
    columns = beginning_with(columns, "prompt", "model_answer")
    rows = [answer.to_json() for answer in found.highest_loss]
    return {"highest_loss": Table([{column: row[column] for column in columns} for row in rows], columns)}


def _comparison_metadata(artifact: Artifact) -> dict[str, Any]:
    comparison = read_comparison(artifact)
    learning_curve, leads = learning_curve_picture(comparison), small_lead_plot(comparison)
    slices = slice_picture(comparison)
    best = next((row.name for row in comparison.rows if row.kind != "gguf"), None)
    labels = confusion_picture([matrix for matrix in comparison.confusions if matrix.row == best])
    markdown = (artifact.path / "comparison.md").read_text(encoding="utf-8")
    return {
        "leads": Picture(leads) if leads else None,
        "rows": _shown_rows(comparison),
        "comparison": Hidden(markdown),
        "picture": Image(score_picture(comparison), "scores with 95 % intervals"),
        "learning_curve": Image(learning_curve, "the primary metric by training rows") if learning_curve else None,
        "slices": Image(slices, "leads in slices, with 95 % intervals") if slices else None,
        "labels": Image(labels, "labels of the references and of the best row's answers") if labels else None,
        "test_items": comparison.test_items,
        "best": best,
        "left_out": artifact.summary["left_out"] or None,
    }


def _shown_rows(comparison: Comparison) -> Table:
    """Return the rows of the comparison, best first: what decides, the other scores, and what a call costs."""
    metrics = shown_metrics(comparison)
    primary = metrics.pop(comparison.primary)
    baseline = shown_leads(comparison)[0]
    columns = {
        "": "The model or prompt",
        primary.label: f"What decides: {primary.direction}, with the 95 % interval",
        "usable": "Whether it may be released",
        "lead": f"By how much it is better than {baseline.name}, with the 95 % interval" if baseline else "",
    }
    if all(comparison.usable(row) for row in comparison.rows):
        del columns["usable"]
    rows = []
    for row in comparison.rows:
        lead = comparison.lead_over(row, baseline) if baseline and row.name != baseline.name else None
        deciding = row.scores.get(comparison.primary)
        decides = {
            "": row.name,
            primary.label: describe_score(deciding) if deciding else "",
            "usable": "yes" if comparison.usable(row) else "no",
            "lead": describe_score(lead, sign="+") if lead else "",
        }
        scores = {
            metric.title: round(row.scores[name].value, 3) if name in row.scores else ""
            for name, metric in metrics.items()
        }
        tokens, seconds = row.prompt_tokens_per_call, row.seconds_per_call
        costs = {
            "prompt tokens per call": "" if tokens is None else round(tokens),
            "s per call": "" if seconds is None else round(seconds, 2),
        }
        rows.append({column: decides[column] for column in columns} | scores | costs)
    return Table(rows, columns)
