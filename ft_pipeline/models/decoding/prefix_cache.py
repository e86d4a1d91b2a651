"""Compute the key-value cache of a common prefix once for many prompts: a variant's system prompt and its examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ft_pipeline.models.model_structure import attends_to_all_previous
from ft_pipeline.models.soft_prompt import compute_prompt_cache, learned_prompt, virtual_token_count

_BUCKET_TOKENS = 64
"""Contexts whose first tokens agree, as many as this, are candidates for a shared prefix."""
_MIN_SAVED_TOKENS = 1024
"""Minimum number of tokens that a shared prefix must save. With fewer, the extra pass and the smaller batches cost
more."""


def group_by_prefix(contexts: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """Group the contexts by common prefix. Return (length of the prefix, indices of the contexts) per group.

    The length is 0 if sharing would not save enough. A prefix omits at least the last token of every context, so that
    each context still computes logits.
    """
    buckets: dict[tuple[int, ...], list[int]] = {}
    for index, context in enumerate(contexts):
        buckets.setdefault(tuple(context[:_BUCKET_TOKENS]), []).append(index)
    groups: list[tuple[int, list[int]]] = []
    ungrouped: list[int] = []
    for indices in buckets.values():
        length = _common_prefix_length([contexts[index] for index in indices])
        if length * (len(indices) - 1) >= _MIN_SAVED_TOKENS:
            groups.append((length, indices))
        else:
            ungrouped += indices
    return [*groups, (0, ungrouped)] if ungrouped else groups


@dataclass(frozen=True)
class ContextGroup:
    """Contexts with a common prefix, and the cache of that prefix."""

    prefix_length: int
    """How many first tokens of each context are in the cache."""
    indices: list[int]
    """Indices of the contexts."""
    cache: Any


class Contexts:
    """Contexts of token ids for a model, in groups with a common prefix. A prefix is computed when its group begins."""

    def __init__(self, model: Any, contexts: Sequence[list[int]]) -> None:
        prompt_embeddings = learned_prompt(model)
        self.virtual_tokens = virtual_token_count(model)
        """Number of tokens of a learned prompt (PEFT's prompt tuning). `token_ids` contains zeros in their place, and
        the cache of the group contains them."""
        self.model = model if prompt_embeddings is None else model.get_base_model()
        """The model that processes the contexts: the frozen one if a learned prompt is in the cache."""
        self.token_ids = [[0] * self.virtual_tokens + list(context) for context in contexts]
        """The token ids of each context, in the given order."""
        self._prompt_embeddings = prompt_embeddings
        self._allows_gaps = attends_to_all_previous(self.model)

    def limit_batch_size(self, batch_size: int) -> int:
        """Return `batch_size`, or 1 if padding could push a learned prompt out of a sliding window.

        Padding is between the prefix and the rest of a context.
        """
        return batch_size if self._allows_gaps or self._prompt_embeddings is None else 1

    def groups(self) -> Iterator[ContextGroup]:
        """Yield groups that contain every context once. The prefix length is 0 if sharing would not save enough."""
        all_indices = list(range(len(self.token_ids)))
        if self._prompt_embeddings is not None:
            with torch.inference_mode():
                cache = compute_prompt_cache(self.model, self._prompt_embeddings)
                yield ContextGroup(self.virtual_tokens, all_indices, cache)
            return
        if not self._allows_gaps:
            yield ContextGroup(0, all_indices, None)
            return
        for length, indices in group_by_prefix(self.token_ids):
            prefix = self.token_ids[indices[0]][:length]
            yield ContextGroup(length, indices, compute_prefix_cache(self.model, prefix) if prefix else None)


@torch.inference_mode()
def compute_prefix_cache(model: Any, prefix: list[int]) -> Any:
    """Return the key-value cache of a prefix, for one row."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache(config=model.config)
    ids = torch.tensor([prefix], device=model.device)
    model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
    return cache


def _common_prefix_length(contexts: Sequence[list[int]]) -> int:
    # The prefix that the first and the last context have in common, in lexicographic order, is common to all.
    first, last = min(contexts), max(contexts)
    limit = min(map(len, contexts)) - 1
    return next((position for position in range(limit) if first[position] != last[position]), max(limit, 0))
