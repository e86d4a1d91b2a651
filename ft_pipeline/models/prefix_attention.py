"""Attention over a prefix that many rows share, read once for all of them, and over what each row has behind it.

The softmax over both is that over each, weighted by the sums of their exponentials (Hydragen, arXiv 2402.05099).
It differs from attention over a repeated prefix by rounding alone. The prefix stays one copy, and the queries of all
rows are one matrix product with it; a repeated prefix is read from memory once per row and token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from ft_pipeline.models.attention import own_attention
from ft_pipeline.models.parts import causal_lm

BESIDE_PREFIX = "beside_prefix"
"""Name of this attention among transformers'."""


def can_share(model: Any, prefix: Any) -> bool:
    """Whether `model` (a causal LM, an adapter on it or not) may attend to `prefix`, a cache of one row, this way.

    Only on a CPU, whose attention kernel tells the sums; a GPU has the memory and the bandwidth for the copies.
    """
    causal = causal_lm(model)
    return (
        causal.device.type == "cpu"
        and causal.config._attn_implementation == "sdpa"
        and own_attention(causal) is None
        and all(layer.keys.shape == layer.values.shape for layer in prefix.layers)
    )


@contextmanager
def beside_prefix(model: Any) -> Iterator[None]:
    """Within it, forward passes of `model` need `shared_prefix`, a cache of RestLayers, besides `cache`.

    Their `attention_mask` has 4 dimensions and covers the rows' own tokens: zero where a query sees a token.
    """
    causal = causal_lm(model)
    before = causal.config._attn_implementation
    AttentionInterface.register(BESIDE_PREFIX, attend_beside_prefix)
    causal.set_attn_implementation(BESIDE_PREFIX)
    try:
        yield
    finally:
        causal.set_attn_implementation(before)


def attend_beside_prefix(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prefix: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers' attention functions: query [rows, heads, tokens, width], key and value [rows, kv heads, own
    tokens, width] → [rows, tokens, heads, width].

    ValueError without `shared_prefix`.
    """
    if shared_prefix is None:
        raise ValueError(f"{BESIDE_PREFIX} attention needs shared_prefix")
    layer = shared_prefix.layers[module.layer_idx]
    scale = module.head_dim**-0.5 if scaling is None else scaling
    rows, heads, tokens, width = query.shape
    groups = key.shape[1]
    # Heads that share a key are further tokens of one head, and so are, for the prefix, those of all rows.
    folded = query.reshape(rows, groups, -1, width)
    all_rows = folded.transpose(0, 1).reshape(1, groups, -1, width)
    of_prefix, sums_of_prefix = _attend(all_rows, layer.prefix_keys, layer.prefix_values, None, scale)
    of_prefix = of_prefix.view(groups, rows, -1, width).transpose(0, 1)
    sums_of_prefix = sums_of_prefix.reshape(groups, rows, -1).transpose(0, 1)
    if tokens > 1:  # the mask is that of one head: keys are repeated, which are fewer
        folded, key, value = query, repeat_kv(key, heads // groups), repeat_kv(value, heads // groups)
    of_own, sums_of_own = _attend(folded, key, value, attention_mask, scale)
    of_own, sums_of_own = of_own.reshape(of_prefix.shape), sums_of_own.reshape(sums_of_prefix.shape)
    share = torch.sigmoid(sums_of_own - sums_of_prefix)[..., None]
    joined = torch.lerp(of_prefix.float(), of_own.float(), share).to(query.dtype)
    return joined.reshape(rows, heads, tokens, width).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention [rows, heads, tokens, width], and the logarithm of each softmax's sum [rows, heads, tokens] in fp32."""
    mask = None if mask is None else mask.to(query.dtype)
    attended: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )
    return attended
