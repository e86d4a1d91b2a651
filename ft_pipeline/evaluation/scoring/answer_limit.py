"""The longest answer that a model may write, in tokens of its own tokenizer."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST = 0.99
"""Share of the reference answers whose length sets the limit."""
ROOM = 4 / 3
"""How much longer than these an answer may be."""
SHORTEST = 16
"""The least limit in tokens: of a label, a model that writes a sentence in its place should show that."""


def answer_limit(
    limit: int | None, tokenizer: Any, references: Sequence[str], project_tokenizer: Any | None = None
) -> int:
    """Return the limit of an answer, in tokens of `tokenizer`.

    limit: evaluation.max_new_tokens, in tokens of `project_tokenizer` if there is one. The result holds as much text:
    otherwise the tokenizer with shorter tokens would be cut off earlier. The rate is that of the reference answers.
    None: their lengths set the limit.
    """
    if limit is None:
        return limit_of_references(tokenizer, references)
    if project_tokenizer is None:
        return limit
    own, of_project = (sum(_token_counts(each, references)) for each in (tokenizer, project_tokenizer))
    return math.ceil(limit * own / max(1, of_project))


def limit_of_references(tokenizer: Any, references: Sequence[str]) -> int:
    """Return the limit that the lengths of reference answers set, in tokens of `tokenizer`."""
    return limit_of([count + 1 for count in _token_counts(tokenizer, references)])  # with the stop token


def limit_of(lengths: Sequence[float]) -> int:
    """Return the limit that goes with reference answers of these lengths in tokens."""
    return max(SHORTEST, math.ceil(float(np.quantile(lengths, MOST)) * ROOM))


def _token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
