"""What a log says: the scores of one model, by metric and item."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.errors import UserError

LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's grades: correct, partly correct, incorrect, no answer."""
WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
LOWER_IS_BETTER = frozenset({"perplexity", "byte", "loss", "wer", "cer", "ter", "brier", "mse", "mae"})
"""Words in the names of metrics of which lower values are better, where a log does not say so."""


@dataclass
class ModelScores:
    """The scores of one model. An item that was answered several times has several."""

    model: str
    source: str
    """The file or folder, for people."""
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Metric → item → scores."""
    questions: dict[str, str] = field(default_factory=dict)
    """Item → what is asked, where the log has it."""
    groups: dict[str, str] = field(default_factory=dict)
    """Item → its group, where the log has it: a document, a conversation."""
    lower_is_better: dict[str, bool] = field(default_factory=dict)
    """By metric, where the log says so."""
    settings: dict[str, str] = field(default_factory=dict)
    """What else differs between two logs if they are no fair comparison, such as the number of examples."""
    failed: set[str] = field(default_factory=set)
    """Items without a score, such as those whose request failed."""

    def add(self, metric: str, item: str, value: Any) -> bool:
        """Add a score, and return whether it is one: a number, or what stands for right and wrong."""
        number = number_of(value)
        if number is not None:
            self.values.setdefault(metric, {}).setdefault(item, []).append(number)
        return number is not None

    def ask(self, item: str, question: str) -> None:
        """Note what an item asks."""
        if question.strip():
            self.questions[item] = question


def number_of(value: Any) -> float | None:
    """Return a score as a number; None if it is none."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if text in LETTERS or text.lower() in WORDS:
        return LETTERS.get(text, WORDS.get(text.lower()))
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def text_of(value: Any) -> str:
    """Return the texts of a document, or of a list of messages, one below the other."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "\n".join(filter(None, map(text_of, value.values())))
    return "\n".join(filter(None, map(text_of, value))) if isinstance(value, list) else ""


def is_lower_better(metric: str, found: Iterable[ModelScores]) -> bool:
    """Return the direction of a metric: by the logs, or else by its name. UserError if logs disagree."""
    name = metric.partition(",")[0]  # lm-eval writes the filter of the answers after it
    said = {scores.lower_is_better[name] for scores in found if name in scores.lower_is_better}
    if len(said) > 1:
        raise UserError(f"The logs disagree on whether a lower {metric} is better. Compare logs of one version.")
    return said.pop() if said else not LOWER_IS_BETTER.isdisjoint(re.split(r"[^a-z0-9]+", name.lower()))
