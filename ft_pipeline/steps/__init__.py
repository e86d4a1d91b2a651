"""The steps that have a file of their own: spec, config, work, checks and page of each, from top to bottom.

The name of a file is that of its asset and of the kind of its artifact. Importing a step imports neither Dagster nor
torch. The other steps are in defs/.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ft_pipeline.step import Step

NAMES = (
    *("experiment", "base_model", "training_data", "memory_estimate", "adapter", "merged_model", "gguf"),
    *("searched_prompt",),
)


def find_step(name: str) -> "Step | None":
    """Import a step; None if it has no file."""
    step: Step | None = import_module(f"{__name__}.{name}").STEP if name in NAMES else None
    return step
