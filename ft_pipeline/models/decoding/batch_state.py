"""The decoding state of a batch: the key-value cache, the padding mask and the position of every token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from ft_pipeline.models.attention import why_attention_is_fixed
from ft_pipeline.models.decoding.kv_cache import batch_cache, suffix_cache
from ft_pipeline.models.model_structure import causal_lm

SHARED_PREFIX = "shared_prefix"
"""Name of this attention in transformers' registry."""


class BatchState:
    """Decoding state of a batch whose rows begin with a common prefix, or with none. Positions do not count padding.

    The prefix is kept once for all rows if the model allows it. Otherwise each row gets a copy.
    """

    def __init__(self, model: Any, prefix: Any, mask: Tensor, new_tokens: int = 0) -> None:
        """prefix: its cache, for one row, or None. mask [rows, tokens]: 0 for padding, else 1; the prefix comes first.
        new_tokens: how many tokens may follow those of the mask."""
        self._model = model
        rows, length = mask.shape
        self._prefix_length = self._length = 0 if prefix is None else prefix.get_seq_length()
        self._mask = torch.cat([mask, mask.new_ones(rows, new_tokens)], dim=1)
        self._padded = not bool(mask.all())
        self._positions = (self._mask.cumsum(-1) - 1).masked_fill(self._mask == 0, 0)
        self.shares_prefix = prefix is not None and can_share_prefix(model, prefix)
        """Whether the prefix is kept once for all rows."""
        capacity = length + new_tokens
        if self.shares_prefix:
            self._cache = suffix_cache(prefix, capacity - self._prefix_length)
        else:
            self._cache = batch_cache(causal_lm(model), prefix, rows, capacity)

    def forward(self, ids: Tensor, logits_to_keep: int = 1) -> Tensor:
        """Process the next tokens [rows, tokens] and return the last `logits_to_keep` logits [rows, logits,
        vocabulary]."""
        begin, self._length = self._length, self._length + ids.shape[1]
        inputs = {
            "input_ids": ids,
            "position_ids": self._positions[:, begin : self._length],
            "cache": self._cache,
            "use_cache": True,
            "logits_to_keep": logits_to_keep,
        }
        if self.shares_prefix:
            mask = self._suffix_mask(ids.shape[1])
            with shared_prefix_attention(self._model):
                output = self._model(**inputs, attention_mask=mask, shared_prefix=self._cache)
        else:
            output = self._model(**inputs, attention_mask=self._mask[:, : self._length] if self._padded else None)
        logits: Tensor = output.logits
        return logits

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all other rows. `rows` must ascend."""
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]

    def repeat_rows(self, times: int | Tensor) -> None:
        """Repeat each row, which then continues in several ways. The copies of a row follow each other.

        times: how often; a tensor [rows] has a number for each row."""
        self._cache.batch_repeat_interleave(times)
        self._mask, self._positions = (rows.repeat_interleave(times, dim=0) for rows in (self._mask, self._positions))

    def _suffix_mask(self, token_count: int) -> Tensor | None:
        """Return an additive mask [rows, 1, tokens, suffix tokens] for the last `token_count` tokens.

        None if each of them attends to the whole suffix.
        """
        if token_count == 1 and not self._padded:
            return None
        visible = self._mask[:, None, None, self._prefix_length : self._length].bool()
        length = visible.shape[-1]
        causal = torch.ones(token_count, length, dtype=torch.bool, device=visible.device).tril(length - token_count)
        diagonal = causal.triu(length - token_count)  # for padding as well: a softmax needs at least one token
        hidden = ~(visible & causal | diagonal)
        return torch.zeros_like(hidden, dtype=self._model.dtype).masked_fill_(hidden, float("-inf"))


def can_share_prefix(model: Any, prefix: Any) -> bool:
    """Whether `model` (a causal LM, with or without an adapter) can use this attention with `prefix`, the cache of one
    row.

    It can on a CPU, if its own attention is torch's without changes. A GPU reads copies of the prefix fast enough, and
    its kernels do not return the sums of exponentials.
    """
    causal = causal_lm(model)
    return (
        causal.device.type == "cpu"
        and not causal.training
        and causal.config.get_text_config() is causal.config
        and causal.config._attn_implementation == "sdpa"
        and why_attention_is_fixed(causal) is None
        and all(layer.keys.shape == layer.values.shape for layer in prefix.layers)
    )


@contextmanager
def shared_prefix_attention(model: Any) -> Iterator[None]:
    """Let `model` use this attention inside the context. Its forward pass takes a cache of SuffixLayers as `cache` and
    as `shared_prefix`.

    The `attention_mask` is None or additive, [rows, 1, tokens, suffix tokens].
    """
    causal = causal_lm(model)
    previous = causal.config._attn_implementation
    AttentionInterface.register(SHARED_PREFIX, attend_with_prefix)
    causal.set_attn_implementation(SHARED_PREFIX)
    try:
        yield
    finally:
        causal.set_attn_implementation(previous)


def attend_with_prefix(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prefix: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention with the signature that transformers expects: query [rows, heads, tokens, width], key and value
    [rows, kv heads, suffix tokens, width] → [rows, tokens, heads, width].

    ValueError without `shared_prefix`.
    """
    if shared_prefix is None:
        raise ValueError(f"{SHARED_PREFIX} attention got no shared_prefix. Pass the cache.")
    layer = shared_prefix.layers[module.layer_idx]
    scale = module.head_dim**-0.5 if scaling is None else scaling
    rows, heads, tokens, width = query.shape
    kv_heads = key.shape[1]
    # Heads that share keys are computed as tokens of one head. For the prefix, so are the tokens of all rows.
    folded_queries = query.reshape(rows, kv_heads, -1, width)
    queries_of_all_rows = folded_queries.transpose(0, 1).reshape(1, kv_heads, -1, width)
    prefix, prefix_log_sums = _attend(queries_of_all_rows, layer.prefix_keys, layer.prefix_values, None, scale)
    prefix = prefix.view(kv_heads, rows, -1, width).transpose(0, 1)
    prefix_log_sums = prefix_log_sums.reshape(kv_heads, rows, -1).transpose(0, 1)
    if tokens > 1:  # folding would repeat the mask, which is larger than the keys
        folded_queries, key, value = query, repeat_kv(key, heads // kv_heads), repeat_kv(value, heads // kv_heads)
    suffix, suffix_log_sums = _attend(folded_queries, key, value, attention_mask, scale)
    suffix, suffix_log_sums = suffix.reshape(prefix.shape), suffix_log_sums.reshape(prefix_log_sums.shape)
    suffix_weight = torch.sigmoid(suffix_log_sums - prefix_log_sums)[..., None]
    combined = torch.lerp(prefix.float(), suffix.float(), suffix_weight).to(query.dtype)
    return combined.reshape(rows, heads, tokens, width).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Return the attention [rows, heads, tokens, width], and the log of the sums of exponentials [rows, heads, tokens]
    in fp32."""
    mask = None if mask is None else mask.to(query.dtype)
    attended: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )
    return attended
