"""Values of all answers together, such as macro-F1, which are no mean over the answers.

Intervals, leads and p-values need to know what each conversation adds to a value: its influence value. A corpus value R
with the influence values u_g (mean 0) is stored as a value per answer, v = R + u_g · (mean number of answers per
conversation) / (number of answers of this one). The mean over the answers is R, and what each conversation adds to that
mean is u_g: so everything that compares means compares corpus values, too.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def spread(value: float, influence: Floats, groups: Sequence[str]) -> list[float]:
    """Return a corpus value as a value per answer.

    influence: of each conversation, in the order of `sorted(set(groups))`. groups: the conversation of each answer.
    """
    names = sorted(set(groups))
    sizes, mean_size = Counter(groups), len(groups) / len(names)
    by_name = dict(zip(names, influence.tolist(), strict=True))
    return [value + by_name[group] * mean_size / sizes[group] for group in groups]


def jackknife(measure: Callable[[list[int]], float], groups: Sequence[str]) -> list[float]:
    """Return the value of a function of all answers, spread over the answers.

    measure: the function of the answers at some positions. It is called once with all, and once without each
    conversation: what changes is that conversation's influence.
    """
    names = sorted(set(groups))
    value = measure(list(range(len(groups))))
    if len(names) < 2:
        return [value] * len(groups)
    left_out = np.array([measure([at for at, group in enumerate(groups) if group != name]) for name in names])
    return spread(value, (len(names) - 1) * (left_out.mean() - left_out), groups)


def macro_f1(references: Sequence[str], answers: Sequence[str], groups: Sequence[str]) -> list[float]:
    """Return macro-F1, spread over the answers: the mean of the F1 of each label that a reference has.

    The F1 of a label is a ratio of sums, 2·TP / (2·TP + FP + FN), so that its influence values need no approximation
    but that of every ratio.
    """
    position = {name: at for at, name in enumerate(sorted(set(groups)))}
    at = [position[group] for group in groups]
    labels = sorted(set(references))
    value, influence = 0.0, np.zeros(len(position))
    for label in labels:
        right = np.zeros(len(position))
        named = np.zeros(len(position))
        for place, reference, answer in zip(at, references, answers, strict=True):
            right[place] += 2.0 * (reference == answer == label)
            named[place] += float(reference == label) + float(answer == label)
        f1 = right.sum() / named.sum()
        value += f1 / len(labels)
        influence += (right - f1 * named) / named.mean() / len(labels)
    return spread(value, influence, groups)
