"""Attention over rows that are laid end to end in one sequence: each row attends to itself only. No padding, no mask.

A GPU uses torch's variable-length attention. A CPU computes each row separately. For short rows it keeps the scores,
which are small: torch's flash kernel computes them a second time in the backward pass, and is slower for such rows.

On a CPU, a row may have branches: several continuations of its first tokens, the stem. A branch attends to the stem and
to itself.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from ft_pipeline.models.model_structure import attends_to_all_previous, causal_lm

END_TO_END = "end_to_end"
"""Name of this attention in transformers' registry."""
_SHORT_ROW_TOKENS = 512
"""Maximum tokens of a row whose scores are kept. They take 2 bytes per head for each pair of tokens and layer."""
_FLASH_CAPABILITY = (8, 0)
"""Compute capability of the first GPUs that support torch's variable-length attention (Ampere)."""
_KERNEL_DTYPES = (torch.bfloat16, torch.float16)
"""The only types that torch's variable-length attention accepts."""


def use_end_to_end_attention(model: Any) -> str | None:
    """Let `model` (a causal LM, with or without an adapter) read batches without padding. Return None, or why it
    cannot."""
    causal = causal_lm(model)
    if (reason := why_attention_is_fixed(causal)) is not None:
        return reason
    if getattr(causal.config.get_text_config(), "attention_dropout", 0):
        return "attention_dropout is set"
    AttentionInterface.register(END_TO_END, attend_end_to_end)
    causal.set_attn_implementation(END_TO_END)
    return None


def reads_end_to_end(model: Any) -> bool:
    """Whether the rows of a batch for `model` must be laid end to end."""
    return bool(model.config._attn_implementation == END_TO_END)


@contextmanager
def padded_attention(model: Any) -> Iterator[None]:
    """Let a model whose batches are laid end to end read padded batches inside the context, as generation needs it."""
    if not reads_end_to_end(model):
        yield
        return
    causal = causal_lm(model)
    causal.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        causal.set_attn_implementation(END_TO_END)


def why_attention_is_fixed(causal: Any) -> str | None:
    """Return why no other attention function can replace that of a causal LM; None if its attention is a plain softmax
    over all previous tokens."""
    config = causal.config.get_text_config()
    model_type = config.model_type
    if not causal._supports_attention_backend:
        return f"{model_type} models have their own kind of attention"
    if not attends_to_all_previous(causal):
        return f"in this {model_type} model, tokens do not attend to all previous tokens"
    if getattr(config, "attn_logit_softcapping", None):
        return f"this {model_type} model caps its attention scores"
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
    branches: Sequence[Sequence[int]] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention with the signature that transformers expects: query [1, heads, tokens, width], key and value [1, kv
    heads, tokens, width] → [1, tokens, heads, width].

    `cu_seq_lens_q` [rows + 1]: where each row begins, and where the last one ends. ValueError without it.
    `branches`: for each row the number of tokens of the stem and of each branch; None: no row has any.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(f"{END_TO_END} attention needs cu_seq_lens_q and max_length_q")
    scale = module.head_dim**-0.5 if scaling is None else scaling
    dtype = _attention_dtype(value)
    queries, keys, values = (states[0].to(dtype) for states in (query, key, value))
    if branches is None and dtype in _KERNEL_DTYPES and (kernel := _kernel_for(query.device)) is not None:
        attended = _attend_by_kernel(kernel, queries, keys, values, scale, cu_seq_lens_q, max_length_q)
    else:
        attended = _attend_row_by_row(queries, keys, values, scale, cu_seq_lens_q, branches)
    return attended.to(value.dtype), None


def _attention_dtype(value: Tensor) -> torch.dtype:
    """Return the type in which attention computes. Autocast does not know this attention, and leaves rotated queries
    and keys in 32 bit, so they are rounded here."""
    device_type = value.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else value.dtype


def _kernel_for(device: torch.device) -> Callable[..., Any] | None:
    """Return the variable-length kernel of `device`; None if rows are computed one by one."""
    return _variable_length_kernel(device) if device.type == "cuda" else None


def _attend_by_kernel(
    kernel: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, scale: float, bounds: Tensor, longest: int
) -> Tensor:
    """Compute the attention of all rows at once: [heads, tokens, width] each → [1, tokens, heads, width]."""
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
    supported = {"window_size", "enable_gqa", "scale"} <= inspect.signature(varlen_attn).parameters.keys()
    return varlen_attn if supported and torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY else None


@torch.compiler.disable  # otherwise each new list of lengths would be compiled, in every step
def _attend_row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    bounds: Tensor,
    branches: Sequence[Sequence[int]] | None,
) -> Tensor:
    """Compute the attention of the rows one by one: [heads, tokens, width] each → [1, tokens, heads, width]."""
    lengths: list[int] = bounds.diff().tolist()
    queries, keys, values = (states.split(lengths, dim=1) for states in (query, key, value))
    if branches is None:
        rows = [_attend_row(*row, scale) for row in zip(queries, keys, values, strict=True)]
    else:
        rows = [_attend_branches(*row, scale) for row in zip(queries, keys, values, branches, strict=True)]
    return torch.cat(rows, dim=1).transpose(0, 1)[None]


def _attend_branches(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """Return the attention of one row [heads, tokens, width] with branches. lengths: those of the stem and of each
    branch."""
    queries, keys, values = (states.split(list(lengths), dim=1) for states in (query, key, value))
    parts = [_attend_row(queries[0], keys[0], values[0], scale)] if lengths[0] else []
    for own_queries, *own in zip(queries[1:], keys[1:], values[1:], strict=True):
        all_keys, all_values = torch.cat([keys[0], own[0]], dim=1), torch.cat([values[0], own[1]], dim=1)
        parts.append(_attend_row(own_queries, all_keys, all_values, scale))
    return torch.cat(parts, dim=1)


def _attend_row(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return the causal attention of one row [heads, tokens, width]. The queries may be those of its last tokens
    only."""
    if key.shape[1] <= _SHORT_ROW_TOKENS and not query.is_cuda:
        attended: Tensor = _ShortRowAttention.apply(query, key, value, scale)
        return attended
    earlier = key.shape[1] - query.shape[1]
    mask = None
    if earlier:
        mask = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool, device=query.device).tril_(earlier)
    return functional.scaled_dot_product_attention(
        query[None],
        key[None],
        value[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )[0]


class _ShortRowAttention(torch.autograd.Function):
    """Causal attention of one row, or of its last tokens, by plain products. The heads that share a key are one matrix.

    Scores are rounded to the row's dtype, as eager attention rounds them, and the softmax is 32 bit.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        (heads, length, width), keys = query.shape, key.shape[1]
        grouped_queries = query.reshape(len(key), -1, width)  # [kv heads, heads per kv head × length, width]
        scores = (grouped_queries @ key.mT).view(heads, length, keys).float().mul_(scale)
        future = torch.ones(length, keys, dtype=torch.bool, device=query.device).triu_(1 + keys - length)
        weights = torch.softmax(scores.masked_fill_(future, float("-inf")), -1).to(value.dtype)
        weights = weights.view(len(key), -1, keys)
        ctx.save_for_backward(grouped_queries, key, value, weights)
        ctx.scale = scale
        return (weights @ value).view(heads, length, width)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grouped_queries, key, value, weights = ctx.saved_tensors
        output_gradient = outputs[0].reshape(grouped_queries.shape)
        weights_gradient = (output_gradient @ value.mT).float()
        weighted = weights_gradient * weights
        # Gradient of the softmax: each weight times the difference of its gradient from the weighted mean of all.
        scores_gradient = weighted.sub_(weighted.sum(-1, keepdim=True) * weights).mul_(ctx.scale).to(key.dtype)
        return (
            (scores_gradient @ key).view(outputs[0].shape),
            scores_gradient.mT @ grouped_queries,
            weights.mT @ output_gradient,
            None,
        )
