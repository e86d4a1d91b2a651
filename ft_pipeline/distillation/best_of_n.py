"""Best of n: which of a teacher's sound answers to one prompt is kept.

The rule: the answer that agrees most with the others, the earlier one where two agree alike. That is minimum Bayes risk
decoding (Kumar & Byrne 2004) with the share of common words and word pairs as its gain: of answers that say three times
the same and once something else, the odd one is never kept. With two answers it is the first.
"""

from collections.abc import Sequence
from itertools import pairwise

from ft_pipeline.tables.text_rules import plain_words


def agreements(answers: Sequence[str]) -> list[float]:
    """For each answer its mean agreement with the others (0 to 1); 1 for an only answer."""
    features = [_features(answer) for answer in answers]
    return [
        sum(_common(own, other) for at, other in enumerate(features) if at != position) / (len(features) - 1)
        if len(features) > 1
        else 1.0
        for position, own in enumerate(features)
    ]


def best_of(answers: Sequence[str]) -> int:
    """The position of the answer to keep."""
    found = agreements(answers)
    return max(range(len(found)), key=lambda position: (found[position], -position))


def _features(answer: str) -> set[tuple[str, ...]]:
    words = plain_words(answer)
    return {(word,) for word in words} | set(pairwise(words))


def _common(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """Jaccard: what both have, of what either has."""
    return len(one & other) / len(one | other) if one | other else 1.0
