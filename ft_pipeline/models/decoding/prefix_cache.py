"""What many prompts begin with is read once: the system prompt and examples of a variant, as a key-value cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ft_pipeline.models.model_structure import reads_all_before
from ft_pipeline.models.soft_prompt import learned_prompt, read_learned_prompt

_HEAD = 64
"""Contexts that agree in this many first tokens are candidates for a shared prefix."""
_WORTH_SHARING = 1024
"""Tokens that sharing must save; below, the extra pass and the smaller batches cost more."""


def shared_prefixes(contexts: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """Split the contexts by what they have in common: (length of the common prefix, indices), 0 where sharing is not
    worth it. One token of every context at least is left out of the prefix, so that it has logits to begin from."""
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
    """Contexts that begin alike, and what was read of that."""

    length: int
    """How many first tokens of each context the cache holds."""
    members: list[int]
    """Indices of the contexts."""
    cache: Any


class Contexts:
    """Contexts of token ids for a model, in groups of a common beginning, each read when it is asked for."""

    def __init__(self, model: Any, contexts: Sequence[list[int]]) -> None:
        prompt = learned_prompt(model)
        self.virtual = 0 if prompt is None else len(prompt)
        """Tokens of a learned prompt (PEFT's prompt tuning), which stand in `ids` as zeros and only in the cache."""
        self.model = model if prompt is None else model.get_base_model()
        """What runs: the frozen model where the learned prompt is in the cache."""
        self.ids = [[0] * self.virtual + list(context) for context in contexts]
        self._prompt = prompt
        self._gaps = reads_all_before(self.model)

    def together(self, rows: int) -> int:
        """How many contexts of a group may share a batch, of `rows` that would fit: padding stands between what they
        share and the rest, and would push what is shared out of a sliding window."""
        return rows if self._gaps or self._prompt is None else 1

    def groups(self) -> Iterator[Shared]:
        """Every context in one group; a length of 0 where sharing is not worth it."""
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
    """The key-value cache of a prefix, for one row."""
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
