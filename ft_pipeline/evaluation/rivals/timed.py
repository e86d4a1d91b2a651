"""Answers without a language model as those of other rivals: each takes the same share of the measured time."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ft_pipeline.evaluation.model_kinds import RIVAL_KINDS
from ft_pipeline.evaluation.rivals.answered_questions import AnsweredQuestion
from ft_pipeline.evaluation.rivals.questions import Answered, Questions


def timed(
    name: str,
    questions: Questions,
    answer: Callable[[Sequence[str]], Sequence[AnsweredQuestion]],
    facts: Mapping[str, Any],
) -> Answered:
    """Return the answers of a rival to all test questions, in the form of a row of scores.json.

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
