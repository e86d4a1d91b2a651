"""Graders of OpenAI's reinforcement fine-tuning: what does the same here."""

from collections.abc import Mapping
from typing import Any

_OTHER = "Write a function in `evaluation.metrics` that does the same, and name it in `grpo.rewards`"
_ADVICE = {
    "string_check": "`exact_match` is scored in any case; name it in `grpo.rewards` of an experiment to train on it",
    "text_similarity": "`rouge_l` and `chrf` are scored in any case; name one in `grpo.rewards` to train on it",
    "python": "Write it as a function in `evaluation.metrics`, and name that in `grpo.rewards` of an experiment",
    "score_model": "Set `evaluation.judge` to compare models; a reward must be a function in `evaluation.metrics`",
    "label_model": "Set `evaluation.judge` to compare models; a reward must be a function in `evaluation.metrics`",
    "endpoint": _OTHER,
    "multi": "Give each part its weight in `grpo.rewards` of an experiment",
}
"""Type of a grader → what to do."""
_PARTS = frozenset({"operation", "evaluation_metric", "source", "model", "graders", "calculate_output", "url"})


def grader_in(document: Any) -> Mapping[str, Any] | None:
    """Return the grader that a document is or holds; None if there is none."""
    if not isinstance(document, Mapping):
        return None
    grader = document.get("grader", document)
    if not isinstance(grader, Mapping) or not _PARTS & grader.keys():
        return None
    kind = grader.get("type")
    return grader if isinstance(kind, str) and kind in _ADVICE else None


def grader_advice(grader: Mapping[str, Any]) -> str:
    """Return what does here what a grader does."""
    return f"{_ADVICE.get(str(grader['type']), _OTHER)} (docs/rewards.md)"
