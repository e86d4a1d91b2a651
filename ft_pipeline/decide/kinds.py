"""What a row is, and what it may do: a line per kind. No other module names kinds to ask for their rights."""

from collections.abc import Mapping
from dataclasses import dataclass

from ft_pipeline.evaluation.model_kinds import ModelKind


@dataclass(frozen=True)
class Kind:
    """The rights of a row."""

    is_bar: bool = False
    """Whether tuning must beat it."""
    is_candidate: bool = False
    """Whether it may be released."""
    is_tuned: bool = False
    without_model: bool = False
    """Whether no language model answers."""
    has_base: bool = False
    """Whether it was trained from a base model, and must keep what that had."""


KINDS: Mapping[ModelKind, Kind] = {
    "merged": Kind(is_candidate=True, is_tuned=True, has_base=True),
    "adapter": Kind(is_candidate=True, is_tuned=True, has_base=True),
    "prompt": Kind(is_bar=True, is_candidate=True),
    "calibrated": Kind(is_bar=True),
    "base": Kind(is_bar=True),
    "classifier": Kind(is_bar=True, is_candidate=True, without_model=True),
    "search": Kind(is_bar=True, without_model=True),
    "constant": Kind(is_bar=True, without_model=True),
    "champion": Kind(has_base=True),
    "teacher": Kind(),
    "contender": Kind(),
    "gguf": Kind(),
}
WITHOUT_MODEL: Mapping[ModelKind, str] = {
    "constant": "the constant answer",
    "search": "the nearest training answer",
    "classifier": "the classifier",
}
"""By kind without a language model, what it is."""
