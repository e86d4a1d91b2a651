"""How many tokens an answer may have, where several tokenizers are compared."""

import math
from collections.abc import Sequence
from typing import Any


def answer_limit(limit: int, tokenizer: Any, project_tokenizer: Any, references: Sequence[str]) -> int:
    """Return the limit in tokens of `tokenizer` that holds as much text as `limit` tokens of `project_tokenizer`.

    Without it, the tokenizer with shorter tokens would be cut off earlier. The rate is that of the reference answers.
    """
    counts = [
        sum(map(len, counter(list(references), add_special_tokens=False)["input_ids"]))
        for counter in (tokenizer, project_tokenizer)
    ]
    return math.ceil(limit * counts[0] / max(1, counts[1]))
