"""What a rival is asked, and what it gives back."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.model_kinds import RIVAL_KINDS, ModelKind
from ft_pipeline.evaluation.rivals.answered_questions import AnsweredQuestion
from ft_pipeline.job import Job
from ft_pipeline.settings.teacher import PriceSettings

PLAIN = "plain"
"""The name of a row without a prompt."""
Answer = dict[str, Any]
"""answer, finish_reason, prompt_tokens (by the model's own tokenizer, or None), seconds (or None), and `calls` of
tools; from an endpoint also the other columns of answers.parquet."""


@dataclass(frozen=True)
class Questions:
    """What a rival is asked."""

    job: Job
    """Its config and inputs say how it is asked."""
    rows: Sequence[dict[str, Any]]
    """The conversations of all splits, with their answers."""
    items: Sequence[Item]
    """The test items, in the order of their answers."""


@dataclass(frozen=True)
class Answered:
    """The answers of a rival, which become a row of scores.json."""

    name: str
    kind: ModelKind
    answers: Sequence[Answer]
    """One for each test item."""
    model: Mapping[str, Any]
    """What is known of the model."""
    prices: PriceSettings = field(default_factory=PriceSettings)


def timed(
    name: str,
    questions: Questions,
    answer: Callable[[Sequence[str]], Sequence[AnsweredQuestion]],
    facts: Mapping[str, Any],
) -> Answered:
    """Return the answers of a rival without a language model. Each takes the same share of the measured time.

    answer: returns a training row, or one made up, whose answer is given to each question.
    """
    asked = [AnsweredQuestion.of(item).question for item in questions.items]
    started = time.perf_counter()
    given = answer(asked)
    known = {
        "finish_reason": "stop",
        "prompt_tokens": None,
        "seconds": (time.perf_counter() - started) / max(1, len(asked)),
    }
    answers = [{"answer": each.content, "calls": each.calls, **known} for each in given]
    return Answered(name, RIVAL_KINDS[name], answers, {"technique": None, **facts})
