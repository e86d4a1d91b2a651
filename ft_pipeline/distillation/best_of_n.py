"""Best of n: choose which of a teacher's valid answers to one prompt is kept.

The rule: the answer that agrees most with the others, the earlier one in a tie. This is minimum Bayes risk decoding
(Kumar & Byrne 2004) with the share of common words and word pairs as its gain: if three answers agree and one differs,
the one that differs is never kept. With two answers, the first is kept.
"""

from collections.abc import Sequence
from itertools import pairwise

from ft_pipeline.tables.text_rules import plain_words


def agreements(answers: Sequence[str]) -> list[float]:
    """For each answer its mean agreement with the others (0 to 1); 1 for an only answer."""
    features = [_features(answer) for answer in answers]
    return [
        sum(_common(own, compared) for index, compared in enumerate(features) if index != position)
        / (len(features) - 1)
        if len(features) > 1
        else 1.0
        for position, own in enumerate(features)
    ]


def best_of(answers: Sequence[str]) -> int:
    """The position of the answer to keep."""
    scores = agreements(answers)
    return max(range(len(scores)), key=lambda position: (scores[position], -position))


def _features(answer: str) -> set[tuple[str, ...]]:
    words = plain_words(answer)
    return {(word,) for word in words} | set(pairwise(words))


def _common(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """Jaccard similarity: the size of the intersection divided by the size of the union."""
    return len(one & other) / len(one | other) if one | other else 1.0
