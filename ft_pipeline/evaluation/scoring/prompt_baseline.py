"""The worker for `prompt_baseline`: score the base model under each prompt, as baselines for tuned models."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.scoring.scorer import ModelUnderTest, Scorer, read_conversations
from ft_pipeline.job import Job
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import load_model
from ft_pipeline.tables.held_out import read_held_out


def run(job: Job) -> dict[str, Any]:
    """Score the base model (16 bit) without a prompt, with the general suite, and under each prompt variant.

    config: evaluation (EvaluationSettings), prompting (PromptingSettings), general_questions, general_texts (rows).
    inputs: conversations, base_model, and `text` if a variant has passages. Raises UserError if the test split is empty
    or a prompt does not fit the model.
    """
    tested_models = _models_to_test(job)
    scorer = Scorer(job, tested_models)
    missing = [tested_model for tested_model in tested_models if not scorer.skip_if_scored(tested_model)]
    if missing:
        model = load_model(job.inputs["base_model"], job.device)
        speed_up_products(model, trains=False)
        for tested_model in missing:
            scorer.score(model, tested_model)
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
    rows = read_conversations(job)
    seed = job.config["evaluation"]["seed"]
    texts = _texts(job)
    plain = ModelUnderTest("plain", "base", Prompt(), {"technique": None}, runs_general_suite=True)
    prompted = [
        ModelUnderTest(name, "prompt", Prompt.from_variant(variant, rows, seed, texts), {"technique": None, **variant})
        for name, variant in job.config["prompting"]["variants"].items()
    ]
    return [plain, *prompted]


def _texts(job: Job) -> list[str]:
    """Return the texts that passages are taken from. A text that shows a held-out row is left out as a whole: a row may
    lie across two passages."""
    if "text" not in job.inputs:
        return []
    texts = pq.read_table(job.inputs["text"] / "rows.parquet", columns=["text"]).column("text").to_pylist()
    held_out = read_held_out(job.inputs["conversations"])
    shown = [text for text, name in zip(texts, held_out.in_texts(texts), strict=True) if name is None]
    if len(shown) < len(texts):
        job.report.log(f"{len(texts) - len(shown)} of {len(texts)} texts show a held-out row and are left out")
    return shown
