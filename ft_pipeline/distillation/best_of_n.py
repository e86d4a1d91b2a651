"""Best of n: choose which of a teacher's valid answers to one prompt is kept.

The rule: keep the answer that agrees most with the others; in a tie, the earlier one. This is minimum Bayes risk
decoding (Kumar & Byrne 2004). Its gain is the Jaccard similarity of the answers' words and word pairs. If three answers
agree and one differs, the one that differs is never kept. Of two answers, the first is kept.
"""

from collections.abc import Sequence
from itertools import pairwise

from ft_pipeline.tables.dedup.tokens import words_of


def agreements(answers: Sequence[str]) -> list[float]:
    """Return each answer's mean agreement with the others (0 to 1); 1 for a single answer."""
    if len(answers) == 1:
        return [1.0]
    features = [_features(answer) for answer in answers]
    return [
        sum(_similarity(own, rival) for index, rival in enumerate(features) if index != position) / (len(features) - 1)
        for position, own in enumerate(features)
    ]


def best_of(scores: Sequence[float]) -> int:
    """Return the position of the answer to keep. scores: each answer's agreement with the others."""
    return max(range(len(scores)), key=lambda position: (scores[position], -position))


def _features(answer: str) -> set[tuple[str, ...]]:
    """Return the words of the answer, and its pairs of consecutive words."""
    words = words_of(answer)
    return {(word,) for word in words} | set(pairwise(words))


def _similarity(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    """Return the Jaccard similarity: the size of the intersection divided by the size of the union."""
    return len(left & right) / len(left | right) if left | right else 1.0
