"""The kinds of rows in a comparison: a model under a prompt, or answers without a language model."""

from collections.abc import Mapping
from typing import Literal

ModelKind = Literal[
    "base",
    "prompt",
    "adapter",
    "merged",
    "teacher",
    "champion",
    "contender",
    "gguf",
    "constant",
    "search",
    "classifier",
    "calibrated",
]
BASELINES: tuple[ModelKind, ...] = ("base", "prompt")
"""The base model without a prompt, and under a prompt variant."""
TUNED: tuple[ModelKind, ...] = ("adapter", "merged")
"""The two forms of a tuned model."""
OF_A_TRAINING: tuple[ModelKind, ...] = (*TUNED, "gguf")
"""The rows that an experiment's training made. A GGUF file is compared, and never released in their place."""
WORD_MODEL = "word_model"
"""The rival that is a classifier, and the kind of the artifact with its model."""
RIVAL_KINDS: Mapping[str, ModelKind] = {"majority": "constant", "nearest_answer": "search", WORD_MODEL: "classifier"}
"""The rows without a language model, by name: their kinds."""
SIMPLEST_FIRST = ("prompt_tuning", "lora", "qlora", "full")
"""Techniques, from the one that changes and requires least to the one that changes and requires most."""


def complexity(technique: str | None) -> int:
    """Return the position of a technique in SIMPLEST_FIRST; -1 for none, which is a prompt."""
    return SIMPLEST_FIRST.index(technique) if technique in SIMPLEST_FIRST else -1
