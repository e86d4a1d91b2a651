"""How good the trained model is, on the same test rows and with the same harness as `prompt_baseline`.

**Look here** for the likelihood of the validation rows under the adapter and the merged model. `comparison` shows
the test scores of models that lead there, and says whether the difference is more than noise.

**If it fails:** memory ran out, or the model's context is too short. Run it again: finished parts are kept.
"""

from typing import Any

from ft_pipeline.decide.seen import may_be_screened_out, records_of_validation
from ft_pipeline.decide.sources.screens import score_on_validation
from ft_pipeline.evaluation.highest_loss import hardest_answers
from ft_pipeline.evaluation.tuned_variants import with_variant
from ft_pipeline.job import Job
from ft_pipeline.page import Page, Points, Table, beginning_with
from ft_pipeline.project import Project
from ft_pipeline.settings.prompt_variant import SEARCHED
from ft_pipeline.step import SpecContext, references, step_of
from ft_pipeline.steps.merged_model import base_model_of
from ft_pipeline.steps.searched_prompt import found_by, tuned_spec
from ft_pipeline.steps.shared.phases import experiment_settings
from ft_pipeline.steps.shared.score_pages import COSTS, TESTS_ARE_COMPARED, look_at_scores, scores_page
from ft_pipeline.steps.shared.scoring_specs import scores_spec, served_settings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.inspection import LISTED_ROW_COLUMNS

ROWS_TO_LOOK_AT = 5
"""Number of test answers with the highest loss that a page shows."""


def spec(context: SpecContext) -> Spec:
    """Return the spec of this experiment's scores."""
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


def run(job: Job) -> dict[str, Any]:
    """Score the adapter and the merged model (evaluation/scoring/tuned_scores.py)."""
    from ft_pipeline.evaluation.scoring import tuned_scores

    return tuned_scores.run(job)


def page(artifact: Artifact) -> Page:
    """Of a model that the comparison may screen out, the scores on the validation rows; of others, all scores."""
    searched = _searched(artifact)
    if not may_be_screened_out(artifact.path):
        return {**scores_page(artifact), **_highest_loss(artifact), **searched}
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
    if "searched_prompt" not in artifact.inputs:
        return {}
    store = ArtifactStore(artifact.path.parents[3])
    return found_by(store.require(*artifact.inputs["searched_prompt"]))


def _highest_loss(artifact: Artifact) -> dict[str, Any]:
    """The test answers with the highest loss under the tuned model, for the page of the scores."""
    found = hardest_answers(ArtifactStore(Project.find().store), artifact, None, ROWS_TO_LOOK_AT)
    columns = {**LISTED_ROW_COLUMNS, "answer": "The reference answer, shortened", "model_answer": "The model's answer"}
    columns = beginning_with(columns, "prompt", "model_answer")
    rows = [answer.to_json() for answer in found.highest_loss]
    return {"highest_loss": Table([{column: row[column] for column in columns} for row in rows], columns)}


STEP = step_of(
    __name__,
    stage="evaluation",
    per_experiment=True,
    deps=("experiment", "base_model", "conversations", "text", "adapter", "merged_model"),
    code_version="4",
    kinds=frozenset({"pytorch", "huggingface"}),
    gpu=True,
    look=look_at_scores,
)
