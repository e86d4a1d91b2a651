"""Key-value caches with room for a whole answer: transformers' own is copied whenever a token is added."""

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer


class RoomyLayer(CacheLayerMixin):
    """Keys and values of one layer in memory that is allocated once; a token is written behind the ones before it.

    `keys` and `values` [rows, kv heads, tokens, width] are the filled part: what DynamicLayer has, in the same order.
    """

    is_croppable = True

    def __init__(self, room: int) -> None:
        """room: how many tokens each row will have at most. More than that is a RuntimeError in `update`."""
        super().__init__()
        self.room = room
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._all = tuple(
            states.new_empty(*states.shape[:2], self.room, states.shape[-1]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, self.length = self.length, self.length + key_states.shape[-2]
        for memory, states in zip(self._all, (key_states, value_states), strict=True):
            memory[:, :, begin : self.length] = states
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, which must ascend, and let the others go."""
        chosen = indices.tolist()
        for memory in self._all:
            for new, old in enumerate(chosen):
                if new != old:  # a row moves up, into one that is no longer needed
                    memory[new, :, : self.length] = memory[old, :, : self.length]
        self._all = tuple(memory[: len(chosen)] for memory in self._all)
        self._show()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        for memory in self._all:
            memory[:, :, : self.length] = memory[:, :, : self.length].index_select(0, beam_idx.to(self.device))

    def crop(self, tokens_to_remove: int) -> None:
        self.length -= abs(tokens_to_remove)
        self._show()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.room

    def _show(self) -> None:
        self.keys, self.values = (memory[:, :, : self.length] for memory in self._all)


class RestLayer(RoomyLayer):
    """What comes behind a prefix that all rows share: one copy of the prefix stays beside the rows' own tokens.

    `update` returns the rows' own part. Attention must read the prefix too (prefix_attention.py).
    """

    def __init__(self, room: int, prefix: Any) -> None:
        """prefix: the layer of a cache of one row; `room` does not count its tokens."""
        super().__init__(room)
        self.prefix_keys, self.prefix_values = prefix.keys, prefix.values
        self._before: int = prefix.get_seq_length()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, self._before

    def get_seq_length(self) -> int:
        return self._before + self.length


def keeps_all(causal: Any) -> bool:
    """Whether the cache of a causal LM is the keys and values of all tokens in every layer, and nothing else."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=causal.config).layers)


def rows_cache(causal: Any, prefix: Any, rows: int, room: int) -> Cache:
    """A cache for `rows` of at most `room` tokens, each beginning with a copy of `prefix` (of one row, or None)."""
    if keeps_all(causal):
        layers = [RoomyLayer(room) for _ in DynamicCache(config=causal.config).layers]
        for layer, read in zip(layers, prefix.layers if prefix else (), strict=prefix is not None):
            layer.update(*(states.expand(rows, -1, -1, -1) for states in (read.keys, read.values)))
        return Cache(layers=layers)
    if prefix is None:
        return DynamicCache(config=causal.config)
    copied: Cache = copy.deepcopy(prefix)
    copied.batch_repeat_interleave(rows)
    return copied


def rest_cache(prefix: Any, room: int) -> Cache:
    """A cache for at most `room` tokens behind `prefix`, a cache of one row that is not copied."""
    return Cache(layers=[RestLayer(room, read) for read in prefix.layers])
