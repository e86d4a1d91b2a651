"""Worker: score the base model under each prompt. These are the baselines that a tuned model must beat."""

from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.scoring.scorer import ModelUnderTest, Scorer, read_conversations
from ft_pipeline.job import Job
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import load_model


def run(job: Job) -> dict[str, Any]:
    """Score the base model (16 bit) plain, with the general suite, and under each variant of `config["prompting"]`.

    config: evaluation (EvaluationSettings), prompting (PromptingSettings), general_questions, general_texts (rows).
    inputs: conversations, base_model, and `text` if a variant has passages. Raises UserError if the test split is empty
    or a prompt does not fit the model.
    """
    subjects = _subjects(job)
    scorer = Scorer(job, subjects)
    missing = [subject for subject in subjects if not scorer.finished(subject)]
    if missing:
        model = load_model(job.inputs["base_model"], job.device)
        speed_up_products(model, trains=False)
        for subject in missing:
            scorer.score(model, subject)
    return scorer.write(subjects)


def _subjects(job: Job) -> list[ModelUnderTest]:
    rows = read_conversations(job)
    seed = job.config["evaluation"]["seed"]
    texts = _texts(job)
    plain = ModelUnderTest("plain", "base", Prompt(), {"technique": None}, general=True)
    prompted = [
        ModelUnderTest(name, "prompt", Prompt.of(variant, rows, seed, texts), {"technique": None, **variant})
        for name, variant in job.config["prompting"]["variants"].items()
    ]
    return [plain, *prompted]


def _texts(job: Job) -> list[str]:
    """Return the texts that passages are taken from."""
    if "text" not in job.inputs:
        return []
    return pq.read_table(job.inputs["text"] / "rows.parquet", columns=["text"]).column("text").to_pylist()
