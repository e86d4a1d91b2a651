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
    *("searched_prompt", "prompt_baseline", "scores"),
    *("comparison", "decision", "recommendation", "champion", "model_card", "report"),
)


def modules() -> dict[str, str]:
    """Return step → module of the steps that have a file, of the core and of features."""
    return {name: f"{__name__}.{name}" for name in NAMES} | modules_of_steps()


def load_step(name: str) -> "Step":
    """Import a step that has a file."""
    step: Step = import_module(modules()[name]).STEP
    return step
