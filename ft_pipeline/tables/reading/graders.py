"""Graders of OpenAI's reinforcement fine-tuning: what does the same here."""

from collections.abc import Mapping
from typing import Any

_ADVICE = {
    "string_check": "`exact_match` is scored in any case; name it in `grpo.rewards` of an experiment to train on it",
    "text_similarity": "`rouge_l` and `chrf` are scored in any case; name one in `grpo.rewards` to train on it",
    "python": "Write it as a function in `evaluation.metrics`, and name that in `grpo.rewards` of an experiment",
    "score_model": "Set `evaluation.judge` to compare models; a reward must be a function in `evaluation.metrics`",
    "label_model": "Set `evaluation.judge` to compare models; a reward must be a function in `evaluation.metrics`",
    "endpoint": "Write a function in `evaluation.metrics` that does the same, and name it in `grpo.rewards`",
    "multi": "Give each part its weight in `grpo.rewards` of an experiment",
}
"""Type of a grader → what to do."""
_PARTS = frozenset({"operation", "evaluation_metric", "source", "model", "graders", "calculate_output", "url"})


def grader_in(document: Any) -> Mapping[str, Any] | None:
    """Return the grader that a document is or holds; None if there is none."""
    if not isinstance(document, Mapping):
        return None
    grader = document.get("grader", document)
    is_grader = isinstance(grader, Mapping) and grader.get("type") in _ADVICE and _PARTS & grader.keys()
    return grader if is_grader else None


def grader_advice(grader: Mapping[str, Any]) -> str:
    """Return what does here what a grader does."""
    return f"{_ADVICE[grader['type']]} (docs/rewards.md)"
