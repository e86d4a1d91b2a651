"""The rival `nearest_answer`: the answer of the training question that is most like the question."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ft_pipeline.evaluation.rivals.answered_questions import (
    NO_ROWS,
    AnsweredQuestion,
    NoRival,
    answered_questions,
    has_few_values,
)
from ft_pipeline.evaluation.rivals.questions import Answered, Questions, timed
from ft_pipeline.evaluation.rivals.text_features import VIEWS, fit_vectorizer

NAME = "nearest_answer"
MAX_VALIDATION = 200
"""Validation questions on which the two views are compared."""
AT_ONCE = 256
"""Questions that are compared with all training questions at once."""


def answers(questions: Questions) -> Iterator[Answered]:
    """Yield the answers to the test questions."""
    training, validation = (answered_questions(questions.rows, split) for split in ("train", "validation"))
    index, view = NearestAnswer.best(training, validation)
    yield timed(NAME, questions, index.answers, {"view": view})


class NearestAnswer:
    """The training questions in one view."""

    def __init__(self, training: Sequence[AnsweredQuestion], view: str) -> None:
        """Raises NoRival without training rows, and if their questions have no words."""
        if not training:
            raise NoRival(NO_ROWS)
        questions = [known.question for known in training]
        self._training = training
        self._vectorizer = fit_vectorizer(view, questions)
        self._questions = self._vectorizer.transform(questions)

    @classmethod
    def best(
        cls, training: Sequence[AnsweredQuestion], validation: Sequence[AnsweredQuestion]
    ) -> tuple["NearestAnswer", str]:
        """Return the index of the view whose answers are more like those of the validation rows, and the view's name.

        By exact matches where answers have few values, else by chrF. Of equal ones, the characters.
        """
        some = validation[:MAX_VALIDATION]
        right = _is_equal if has_few_values([known.reference for known in training]) else _likeness
        indices = {view: cls(training, view) for view in reversed(VIEWS)}

        def score(view: str) -> float:
            answers = indices[view].answers([asked.question for asked in some])
            return sum(right(asked.reference, answer.reference) for asked, answer in zip(some, answers, strict=True))

        view = max(indices, key=score)
        return indices[view], view

    def answers(self, questions: Sequence[str]) -> list[AnsweredQuestion]:
        """Return the nearest training row of each question; of equally near ones, the first."""
        found: list[int] = []
        for start in range(0, len(questions), AT_ONCE):
            asked: Any = self._vectorizer.transform(questions[start : start + AT_ONCE])
            likeness = (asked @ self._questions.T).toarray()
            found += np.argmax(likeness.round(9), axis=1).tolist()  # rounded: sums in another order are equal
        return [self._training[position] for position in found]


def _is_equal(reference: str, answer: str) -> float:
    return float(reference == answer)


def _likeness(reference: str, answer: str) -> float:
    from ft_pipeline.evaluation.metrics.definitions import chrf

    return chrf(reference, answer)
