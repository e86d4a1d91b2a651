"""The worker for `prompt_baseline`: score the base model under each prompt, as baselines for tuned models."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.evaluation.scoring.prompt_sources import example_rows, read_prompts
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.scoring.scorer import Scorer
from ft_pipeline.evaluation.scoring.second_scores import (
    best_use,
    count_requests,
    is_scored_again,
    score_again,
    write_second,
)
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest
from ft_pipeline.job import Job
from ft_pipeline.models.chat import single_turn_rows
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import load_model
from ft_pipeline.settings.prompt_variant import RETRIEVED


def run(job: Job) -> dict[str, Any]:
    """Score the base model (16 bit) without a prompt, with the general suite, and under each prompt variant; the best
    of them twice.

    config: evaluation (EvaluationSettings), prompting (PromptingSettings), general_questions, general_texts (rows).
    inputs: conversations, base_model, and what the prompts are taken from (prompt_sources.py). Raises UserError if the
    test split is empty or a prompt does not fit the model.
    """
    tested_models = _models_to_test(job)
    scorer = Scorer(job, tested_models)
    missing = [tested_model for tested_model in tested_models if not scorer.skip_if_scored(tested_model)]
    if missing or not is_scored_again(scorer):
        model = load_model(job.inputs["base_model"], job.device)
        speed_up_products(model, trains=False)
        scorer.progress.expect(count_requests(scorer))
        for tested_model in missing:
            scorer.score(model, tested_model)
        score_again(scorer, model, best_use(scorer, tested_models))
    write_second(scorer)
    notes = notes_on_system_turns(scorer.test_rows, tested_models)
    for note in notes:
        job.report.log(note)
    return scorer.write(tested_models) | ({"notes": notes} if notes else {})


def notes_on_system_turns(rows: Sequence[Mapping[str, Any]], tested_models: Sequence[ModelUnderTest]) -> list[str]:
    """Return a note per variant whose system prompt is not used where a conversation has a system turn of its own."""
    own = sum(row["messages"][0]["role"] == "system" for row in rows)
    return [
        f"{model.name}: its system prompt is not used in {own} of {len(rows)} test conversations, which have a system "
        "turn. Set replace_system to use it."
        for model in tested_models
        if own and model.prompt.system_prompt and not model.prompt.replace_system
    ]


def _models_to_test(job: Job) -> list[ModelUnderTest]:
    variants = _variants(job)
    plain = ModelUnderTest("plain", "base", Prompt(), {"technique": None}, runs_general_suite=True)
    prompted = [
        ModelUnderTest(name, "prompt", prompt, {"technique": None, **variants[name]})
        for name, prompt in read_prompts(job, variants).items()
    ]
    return [plain, *prompted]


def _variants(job: Job) -> dict[str, Any]:
    """Return the prompt variants, without the one that nobody asked for if there are too few examples for it."""
    variants = dict(job.config["prompting"]["variants"])
    if RETRIEVED in variants:
        found = len(single_turn_rows(example_rows(job.inputs), 0, seed=0))
        if found < variants[RETRIEVED]["few_shot"]:
            job.report.log(f"{RETRIEVED} is left out: the train split has {found} single-turn rows")
            del variants[RETRIEVED]
    return variants
