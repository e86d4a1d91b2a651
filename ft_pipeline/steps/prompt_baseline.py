"""How good the model is without training: plain, with a system prompt, with examples, with retrieved passages.

**Look here** for the scores that a tuned model has to beat. The teacher is scored too, if it is another model.

**If it fails:** memory ran out, or a prompt is longer than the model's context. Run it again: finished parts
are kept.
"""

from typing import Any

from ft_pipeline.job import Job
from ft_pipeline.settings.prompt_variant import SEARCHED
from ft_pipeline.step import SpecContext, references, step_of
from ft_pipeline.steps.shared.phases import experiment_settings
from ft_pipeline.steps.shared.score_pages import look_at_scores, scores_page
from ft_pipeline.steps.shared.scoring_specs import baseline_spec, teacher_spec
from ft_pipeline.store.spec import Spec


def spec(context: SpecContext) -> Spec:
    """Return the spec of this experiment's baselines."""
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


def run(job: Job) -> dict[str, Any]:
    """Score the base model under each prompt (evaluation/scoring/prompt_baseline.py)."""
    from ft_pipeline.evaluation.scoring import prompt_baseline

    return prompt_baseline.run(job)


STEP = step_of(
    __name__,
    stage="evaluation",
    per_experiment=True,
    deps=("experiment", "base_model", "conversations", "text", "searched_prompt"),
    code_version="4",
    kinds=frozenset({"pytorch", "huggingface"}),
    gpu=True,
    look=look_at_scores,
    page=scores_page,
)
