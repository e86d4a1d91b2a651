"""The steps, a file each: spec, config, work, checks and page, from top to bottom.

The name of a file is that of its asset and of the kind of its artifact; raw.py and tables.py have a step for each
format. Importing a step imports neither Dagster nor torch. defs/ makes Dagster's assets of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ft_pipeline.step import Step

NAMES = (
    *("conversations", "quarantine"),
    *("teacher_answers", "distilled"),
    *("experiment", "base_model", "training_data", "memory_estimate", "adapter", "merged_model", "gguf"),
    *("searched_prompt", "prompt_baseline", "scores", "gguf_scores", "ratings", "judgements"),
    *("comparison", "decision", "recommendation", "champion", "model_card", "report"),
)


def find_step(name: str) -> "Step | None":
    """Import a step; None if it has no file."""
    step: Step | None = import_module(f"{__name__}.{name}").STEP if name in NAMES else None
    return step
