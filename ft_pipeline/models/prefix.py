"""What many prompts begin with is read once: the system prompt and examples of a variant, as a key-value cache."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

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


def groups_for(model: Any, contexts: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """The same for a model: a learned prompt (PEFT's prompt tuning) goes before every call's tokens, so that nothing
    that it saw in an earlier call can be taken up again."""
    learned = any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())
    return [(0, list(range(len(contexts))))] if learned else shared_prefixes(contexts)


@torch.inference_mode()
def read_prefix(model: Any, prefix: list[int]) -> Any:
    """The key-value cache of a prefix, for one row."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache(config=model.config)
    ids = torch.tensor([prefix], device=model.device)
    model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
    return cache


def repeated(cache: Any, rows: int) -> Any:
    """A copy of a prefix's cache for a batch of `rows`; the model writes into it."""
    mine = copy.deepcopy(cache)
    mine.batch_repeat_interleave(rows)
    return mine


def _common_length(contexts: Sequence[list[int]]) -> int:
    # The common prefix of all is that of the lexicographic extremes.
    first, last = min(contexts), max(contexts)
    limit = min(map(len, contexts)) - 1
    return next((position for position in range(limit) if first[position] != last[position]), max(limit, 0))
