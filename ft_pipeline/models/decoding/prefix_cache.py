"""Read a common prefix of many prompts once, as a key-value cache: the system prompt and examples of a variant."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ft_pipeline.models.model_structure import reads_all_before
from ft_pipeline.models.soft_prompt import learned_prompt, read_learned_prompt

_HEAD = 64
"""Contexts that agree in this many first tokens are candidates for a shared prefix."""
_WORTH_SHARING = 1024
"""Tokens that sharing must save. With fewer, the extra pass and the smaller batches cost more."""


def shared_prefixes(contexts: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """Group the contexts by common prefix: (length of the prefix, indices), 0 if sharing is not worth it. The prefix
    omits at least one token of every context, so that it has logits to begin from."""
    buckets: dict[tuple[int, ...], list[int]] = {}
    for index, context in enumerate(contexts):
        buckets.setdefault(tuple(context[:_HEAD]), []).append(index)
    groups: list[tuple[int, list[int]]] = []
    alone: list[int] = []
    for indices in buckets.values():
        length = _common_length([contexts[index] for index in indices])
        if length * (len(indices) - 1) >= _WORTH_SHARING:
            groups.append((length, indices))
        else:
            alone += indices
    return [*groups, (0, alone)] if alone else groups


@dataclass(frozen=True)
class Shared:
    """Contexts with a common prefix, and the cache of that prefix."""

    length: int
    """How many first tokens of each context are in the cache."""
    members: list[int]
    """Indices of the contexts."""
    cache: Any


class Contexts:
    """Contexts of token ids for a model, in groups with a common prefix. A prefix is read when its group is used."""

    def __init__(self, model: Any, contexts: Sequence[list[int]]) -> None:
        prompt = learned_prompt(model)
        self.virtual = 0 if prompt is None else len(prompt)
        """Number of tokens of a learned prompt (PEFT's prompt tuning). `ids` has zeros for them; the cache has them."""
        self.model = model if prompt is None else model.get_base_model()
        """The model that runs: the frozen one if a learned prompt is in the cache."""
        self.ids = [[0] * self.virtual + list(context) for context in contexts]
        self._prompt = prompt
        self._gaps = reads_all_before(self.model)

    def together(self, rows: int) -> int:
        """Return how many contexts of a group may share a batch, if `rows` would fit. Padding is between the prefix and
        the rest, and could push the prefix out of a sliding window."""
        return rows if self._gaps or self._prompt is None else 1

    def groups(self) -> Iterator[Shared]:
        """Yield groups that contain every context once; the length is 0 if sharing is not worth it."""
        if self._prompt is not None:
            with torch.inference_mode():
                yield Shared(self.virtual, list(range(len(self.ids))), read_learned_prompt(self.model, self._prompt))
            return
        if not self._gaps:
            yield Shared(0, list(range(len(self.ids))), None)
            return
        for length, members in shared_prefixes(self.ids):
            yield Shared(length, members, read_prefix(self.model, self.ids[members[0]][:length]) if length else None)


@torch.inference_mode()
def read_prefix(model: Any, prefix: list[int]) -> Any:
    """Return the key-value cache of a prefix, for one row."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache(config=model.config)
    ids = torch.tensor([prefix], device=model.device)
    model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
    return cache


def _common_length(contexts: Sequence[list[int]]) -> int:
    # The common prefix of all is that of the lexicographic extremes.
    first, last = min(contexts), max(contexts)
    limit = min(map(len, contexts)) - 1
    return next((position for position in range(limit) if first[position] != last[position]), max(limit, 0))
