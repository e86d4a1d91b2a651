"""The rival `majority`: it gives one answer, whatever is asked."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from ft_pipeline.evaluation.rivals.answered_questions import (
    NO_ROWS,
    AnsweredQuestion,
    NoRival,
    answered_questions,
    has_few_values,
)
from ft_pipeline.evaluation.rivals.questions import Answered, Questions, timed

NAME = "majority"
SAMPLE = 60
"""Number of training answers that are compared with each other. The work grows with its square."""


def answers(questions: Questions) -> Iterator[Answered]:
    """Yield the answer to all test questions."""
    known = majority(answered_questions(questions.rows, "train"), questions.job.config["evaluation"]["seed"])
    yield timed(NAME, questions, lambda asked: [known] * len(asked), {"answer": known.reference})


def majority(training: Sequence[AnsweredQuestion], seed: int) -> AnsweredQuestion:
    """Return the most frequent answer; of free text, the one that is most like the others of a seeded sample (chrF).

    Raises NoRival without training rows.
    """
    if not training:
        raise NoRival(NO_ROWS)
    references = [known.reference for known in training]
    if has_few_values(references):
        return training[references.index(Counter(references).most_common(1)[0][0])]
    return _most_alike(training, seed)


def _most_alike(training: Sequence[AnsweredQuestion], seed: int) -> AnsweredQuestion:
    from ft_pipeline.evaluation.metrics.definitions import chrf

    sample = random.Random(seed).sample(list(training), min(SAMPLE, len(training)))

    def likeness(position: int) -> float:
        others = (other for number, other in enumerate(sample) if number != position)
        return sum(chrf(other.reference, sample[position].reference) for other in others)

    return sample[max(range(len(sample)), key=likeness)]
