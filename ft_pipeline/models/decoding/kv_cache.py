"""Key-value caches that are allocated once: transformers' DynamicCache copies itself at every new token."""

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from ft_pipeline.models.model_structure import attends_to_all_previous


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer, in memory that is allocated at the first update. New tokens are written in place.

    `keys` and `values` [rows, kv heads, tokens, width] are views of the filled part, equal to those of a DynamicLayer.
    """

    is_croppable = True

    def __init__(self, capacity: int) -> None:
        """capacity: the maximum number of tokens per row; `update` raises RuntimeError above it."""
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = tuple(
            states.new_empty(*states.shape[:2], self.capacity, states.shape[-1])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, self.length = self.length, self.length + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin : self.length] = states
        self._set_views()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows, in place. Indices must ascend, so that no row is overwritten before it is copied."""
        kept_rows = indices.tolist()
        for buffer in self._buffers:
            for new_row, old_row in enumerate(kept_rows):
                if new_row != old_row:
                    buffer[new_row, :, : self.length] = buffer[old_row, :, : self.length]
        self._buffers = tuple(buffer[: len(kept_rows)] for buffer in self._buffers)
        self._set_views()

    def batch_repeat_interleave(self, repeats: int | Tensor) -> None:
        self._buffers = tuple(buffer.repeat_interleave(repeats, dim=0) for buffer in self._buffers)
        self._set_views()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        for buffer in self._buffers:
            buffer[:, :, : self.length] = buffer[:, :, : self.length].index_select(0, beam_idx.to(self.device))

    def crop(self, tokens_to_remove: int) -> None:
        self.length -= abs(tokens_to_remove)
        self._set_views()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    def _set_views(self) -> None:
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)


class SuffixLayer(PreallocatedLayer):
    """The tokens of each row after a prefix that all rows share. The prefix is kept once, not per row.

    `update` returns the suffix only. The attention function must read the prefix too (see prefix_attention.py).
    """

    def __init__(self, capacity: int, prefix: Any) -> None:
        """capacity: the maximum number of suffix tokens. prefix: a cache layer of one row."""
        super().__init__(capacity)
        self.prefix_keys, self.prefix_values = prefix.keys, prefix.values
        self._prefix_length: int = prefix.get_seq_length()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, self._prefix_length

    def get_seq_length(self) -> int:
        return self._prefix_length + self.length


def has_plain_cache(causal: Any) -> bool:
    """Whether a causal LM caches the keys and values of all tokens in every layer, and nothing else."""
    return attends_to_all_previous(causal) and all(
        type(layer) is DynamicLayer for layer in DynamicCache(config=causal.config).layers
    )


def batch_cache(causal: Any, prefix: Any, rows: int, capacity: int) -> Cache:
    """Return a cache for `rows` rows of at most `capacity` tokens. Each row begins with a copy of `prefix`.

    prefix: the cache of one row, or None. The memory is preallocated if the model has a plain cache.
    """
    if has_plain_cache(causal):
        layers = [PreallocatedLayer(capacity) for _ in DynamicCache(config=causal.config).layers]
        for layer, prefix_layer in zip(layers, prefix.layers if prefix else (), strict=prefix is not None):
            layer.update(*(states.expand(rows, -1, -1, -1) for states in (prefix_layer.keys, prefix_layer.values)))
        return Cache(layers=layers)
    if prefix is None:
        return DynamicCache(config=causal.config)
    cache: Cache = copy.deepcopy(prefix)
    cache.batch_repeat_interleave(rows)
    return cache


def suffix_cache(prefix: Any, capacity: int) -> Cache:
    """Return a cache for at most `capacity` tokens per row after `prefix`, the cache of one row. It is not copied."""
    return Cache(layers=[SuffixLayer(capacity, layer) for layer in prefix.layers])
