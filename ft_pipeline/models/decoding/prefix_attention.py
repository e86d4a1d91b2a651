"""Attention over a prefix that all rows of a batch share and over the suffix of each row (Hydragen, arXiv 2402.05099).

The prefix is kept once: one matrix product multiplies the queries of all rows with one copy of its keys. The attention
over both parts is the mean of the attention over each, weighted by their sums of exponentials. It differs from
attention over a repeated prefix by rounding only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from ft_pipeline.models.attention import why_attention_is_fixed
from ft_pipeline.models.model_structure import causal_lm

SHARED_PREFIX = "shared_prefix"
"""Name of this attention in transformers' registry."""


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
