"""Attention over rows that lie end to end in one sequence, each reading itself alone: no padding, and no mask.

On a GPU it is torch's variable-length attention. On a CPU each row is computed by itself, a short one with its scores
kept: they are few, and torch's flash kernel, which computes them a second time when going back, is slower there.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from ft_pipeline.models.parts import causal_lm, reads_all_before

END_TO_END = "end_to_end"
"""Name of this attention among transformers'."""
_SHORT = 512
"""Tokens of a row up to which its scores are kept: heads × 2 bytes for each pair of tokens and layer."""
_FLASH_CAPABILITY = (8, 0)
"""The first GPUs that torch's variable-length attention runs on (Ampere)."""


def lay_end_to_end(model: Any) -> str | None:
    """Let `model` (a causal LM, an adapter on it or not) read batches without padding; else why it cannot."""
    causal = causal_lm(model)
    if (reason := own_attention(causal)) is not None:
        return reason
    if getattr(causal.config.get_text_config(), "attention_dropout", 0):
        return "attention_dropout is set"
    AttentionInterface.register(END_TO_END, attend_end_to_end)
    causal.set_attn_implementation(END_TO_END)
    return None


def reads_end_to_end(model: Any) -> bool:
    """Whether its batches are to lie end to end."""
    return bool(model.config._attn_implementation == END_TO_END)


def own_attention(causal: Any) -> str | None:
    """Why another attention function cannot replace that of a causal LM. None if it is a plain softmax over all tokens
    before."""
    config = causal.config.get_text_config()
    name = config.model_type
    if not causal._supports_attention_backend:
        return f"{name} models have an attention of their own"
    if not reads_all_before(causal):
        return f"this {name} model does not let every token read all before it"
    if getattr(config, "attn_logit_softcapping", None):
        return f"this {name} model caps its attention scores"
    return None


def attend_end_to_end(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers' attention functions: query [1, heads, tokens, width], key and value [1, kv heads, tokens,
    width] → [1, tokens, heads, width].

    `cu_seq_lens_q` [rows + 1]: where each row begins, and where the last one ends. ValueError without it.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(f"{END_TO_END} attention needs cu_seq_lens_q and max_length_q")
    scale = module.head_dim**-0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves rotated ones in 32 bit
    if query.is_cuda and (kernel := _variable_length_kernel(query.device)) is not None:
        tokens = (each[0].transpose(0, 1) for each in (query, key, value))
        grouped = query.shape[1] != key.shape[1]
        attended = kernel(
            *tokens,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scale,
            window_size=(-1, 0),  # all before, nothing after
            enable_gqa=grouped,
        )
        return attended[None], None
    return _row_by_row(query[0], key[0], value[0], scale, cu_seq_lens_q), None


@functools.cache
def _variable_length_kernel(device: torch.device) -> Callable[..., Any] | None:
    """torch's, where this torch and this GPU have it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = {"window_size", "enable_gqa", "scale"} <= inspect.signature(varlen_attn).parameters.keys()
    return varlen_attn if known and torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY else None


@torch.compiler.disable  # a graph for each list of lengths would be compiled anew in every step
def _row_by_row(query: Tensor, key: Tensor, value: Tensor, scale: float, bounds: Tensor) -> Tensor:
    """[heads, tokens, width] each → [1, tokens, heads, width]."""
    lengths: list[int] = bounds.diff().tolist()
    queries, keys, values = (each.split(lengths, dim=1) for each in (query, key, value))
    rows = [_row(*row, scale) for row in zip(queries, keys, values, strict=True)]
    return torch.cat(rows, dim=1).transpose(0, 1)[None]


def _row(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    if query.shape[1] <= _SHORT and not query.is_cuda:
        attended: Tensor = _ShortRow.apply(query, key, value, scale)
        return attended
    grouped = query.shape[0] != key.shape[0]
    return functional.scaled_dot_product_attention(
        query[None], key[None], value[None], is_causal=True, scale=scale, enable_gqa=grouped
    )[0]


class _ShortRow(torch.autograd.Function):
    """Causal attention of one row by plain products; the heads that share a key are one matrix.

    Scores are rounded to the row's dtype, as eager attention rounds them, and the softmax is 32 bit.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        heads, length, width = query.shape
        shared = query.reshape(len(key), -1, width)  # [kv heads, heads per kv head × length, width]
        scores = (shared @ key.mT).view(heads, length, length).float().mul_(scale)
        future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu_(1)
        weights = torch.softmax(scores.masked_fill_(future, float("-inf")), -1).to(value.dtype)
        weights = weights.view(len(key), -1, length)
        ctx.save_for_backward(shared, key, value, weights)
        ctx.scale = scale
        return (weights @ value).view(heads, length, width)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        shared, key, value, weights = ctx.saved_tensors
        slope = outputs[0].reshape(shared.shape)
        of_weights = (slope @ value.mT).float()
        part = of_weights * weights
        # The softmax's own: each weight times how far its slope lies from the weighted mean of all.
        scores = part.sub_(part.sum(-1, keepdim=True) * weights).mul_(ctx.scale).to(key.dtype)
        return (scores @ key).view(outputs[0].shape), scores.mT @ shared, weights.mT @ slope, None
