"""The kinds of rows in a comparison: each is a model under a prompt."""

from typing import Literal

ModelKind = Literal["base", "prompt", "adapter", "merged", "teacher", "champion"]
BASELINES: tuple[ModelKind, ...] = ("base", "prompt")
"""The base model without a prompt, and under a prompt variant."""
TUNED: tuple[ModelKind, ...] = ("adapter", "merged")
"""The two forms of a tuned model."""
