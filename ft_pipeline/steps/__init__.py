"""The steps, a file each: spec, config, work, checks and page, from top to bottom.

The name of a file is that of its asset and of the kind of its artifact; raw.py and tables.py have a step for each
format. Importing a step imports neither Dagster nor torch. defs/ makes Dagster's assets of them. Those of a
feature are in its folder.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ft_pipeline.features import modules_of_steps

if TYPE_CHECKING:
    from ft_pipeline.step import Step

NAMES = (
    *("conversations", "quarantine"),
    *("teacher_answers", "distilled"),
    *("experiment", "base_model", "training_data", "memory_estimate", "adapter", "merged_model"),
    *("searched_prompt", "prompt_baseline", "scores", "ratings", "judgements"),
    *("comparison", "decision", "recommendation", "champion", "model_card", "report"),
)


def find_step(name: str) -> "Step | None":
    """Import a step, of the core or of a feature; None if it has no file."""
    return load_step(name) if name in NAMES or name in modules_of_steps() else None


def load_step(name: str) -> "Step":
    """Import a step that has a file."""
    module = f"{__name__}.{name}" if name in NAMES else modules_of_steps()[name]
    step: Step = import_module(module).STEP
    return step
