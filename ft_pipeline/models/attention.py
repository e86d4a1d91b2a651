"""Attention over rows that are laid end to end in one sequence, each attending to itself only: no padding, no mask.

A GPU uses torch's variable-length attention. A CPU computes each row separately. It keeps the scores of short rows,
which are few: torch's flash kernel computes them a second time in the backward pass and is slower for short rows.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from ft_pipeline.models.model_structure import causal_lm, reads_all_before

END_TO_END = "end_to_end"
"""Name of this attention in transformers' registry."""
_SHORT = 512
"""Maximum tokens of a row whose scores are kept: heads × 2 bytes for each pair of tokens and layer."""
_FLASH_CAPABILITY = (8, 0)
"""The first GPUs that support torch's variable-length attention (Ampere)."""
_KERNEL_DTYPES = (torch.bfloat16, torch.float16)
"""The only types that torch's variable-length attention accepts."""


def lay_end_to_end(model: Any) -> str | None:
    """Let `model` (a causal LM, with or without an adapter) read batches without padding, or return why not."""
    causal = causal_lm(model)
    if (reason := own_attention(causal)) is not None:
        return reason
    if getattr(causal.config.get_text_config(), "attention_dropout", 0):
        return "attention_dropout is set"
    AttentionInterface.register(END_TO_END, attend_end_to_end)
    causal.set_attn_implementation(END_TO_END)
    return None


def reads_end_to_end(model: Any) -> bool:
    """Whether the rows of a batch for `model` must be laid end to end."""
    return bool(model.config._attn_implementation == END_TO_END)


def own_attention(causal: Any) -> str | None:
    """Return why another attention function cannot replace that of a causal LM. None if its attention is a plain
    softmax over all previous tokens."""
    config = causal.config.get_text_config()
    name = config.model_type
    if not causal._supports_attention_backend:
        return f"{name} models have their own kind of attention"
    if not reads_all_before(causal):
        return f"in this {name} model, tokens do not attend to all previous tokens"
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
    """Attention with the signature that transformers expects: query [1, heads, tokens, width], key and value [1, kv
    heads, tokens, width] → [1, tokens, heads, width].

    `cu_seq_lens_q` [rows + 1]: where each row begins, and where the last one ends. ValueError without it.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(f"{END_TO_END} attention needs cu_seq_lens_q and max_length_q")
    scale = module.head_dim**-0.5 if scaling is None else scaling
    dtype = _attention_dtype(value)
    queries, keys, values = (states[0].to(dtype) for states in (query, key, value))
    if dtype in _KERNEL_DTYPES and (kernel := _kernel_for(query.device)) is not None:
        attended = _by_kernel(kernel, queries, keys, values, scale, cu_seq_lens_q, max_length_q)
    else:
        attended = _row_by_row(queries, keys, values, scale, cu_seq_lens_q)
    return attended.to(value.dtype), None


def _attention_dtype(value: Tensor) -> torch.dtype:
    """Return the type in which attention computes. Autocast does not know this attention, and leaves rotated queries
    and keys in 32 bit, so they are rounded here."""
    kind = value.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype


def _kernel_for(device: torch.device) -> Callable[..., Any] | None:
    """Return the variable-length kernel of `device`; None if rows are computed one by one."""
    return _variable_length_kernel(device) if device.type == "cuda" else None


def _by_kernel(
    kernel: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, scale: float, bounds: Tensor, longest: int
) -> Tensor:
    """[heads, tokens, width] each → [1, tokens, heads, width]."""
    attended: Tensor = kernel(
        *(states.transpose(0, 1) for states in (query, key, value)),
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),  # all previous tokens, no later ones
        enable_gqa=len(query) != len(key),
    )
    return attended[None]


@functools.cache
def _variable_length_kernel(device: torch.device) -> Callable[..., Any] | None:
    """Return torch's kernel if this torch has it and this GPU supports it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = {"window_size", "enable_gqa", "scale"} <= inspect.signature(varlen_attn).parameters.keys()
    return varlen_attn if known and torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY else None


@torch.compiler.disable  # otherwise each new list of lengths would be compiled, in every step
def _row_by_row(query: Tensor, key: Tensor, value: Tensor, scale: float, bounds: Tensor) -> Tensor:
    """[heads, tokens, width] each → [1, tokens, heads, width]."""
    lengths: list[int] = bounds.diff().tolist()
    queries, keys, values = (states.split(lengths, dim=1) for states in (query, key, value))
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
    """Causal attention of one row by plain products. The heads that share a key are one matrix.

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
        # Gradient of the softmax: each weight times the distance of its slope from the weighted mean of all slopes.
        scores = part.sub_(part.sum(-1, keepdim=True) * weights).mul_(ctx.scale).to(key.dtype)
        return (scores @ key).view(outputs[0].shape), scores.mT @ shared, weights.mT @ slope, None
