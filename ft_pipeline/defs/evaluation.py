"""Evaluation: scores of prompting and tuned models under one harness, their comparison, and what follows from it."""

from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.steps import (
    comparison,
    decision,
    judgements,
    prompt_baseline,
    ratings,
    recommendation,
    scores,
    searched_prompt,
)

steps = (
    *(searched_prompt, prompt_baseline, scores, ratings, judgements),
    *(comparison, decision, recommendation),
)
assets = [asset_of(step.STEP) for step in steps]
