"""A LoRA layer as one function: three products in the forward pass, five in the backward pass, and no other tensors.

PEFT's layer makes four intermediate tensors of the size of its output in the forward pass, and as many gradients in the
backward pass. On a CPU these copies take as long as the products of a small model.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ft_pipeline.models.cpu.packed_linear import FrozenLinear


def join_lora(model: Any) -> int:
    """Let each plain LoRA layer of a PEFT `model` on a FrozenLinear compute as one function. Return how many do.

    Layers with dropout, DoRA, a bias of LoRA's own, or more than one adapter stay PEFT's.
    """
    joined = [module for module in model.modules() if isinstance(module, LoraLayer) and _joinable(module)]
    for module in joined:
        module.__class__ = type(f"Joined{type(module).__name__}", (_JoinedLora, type(module)), {})
    return len(joined)


def _joinable(layer: Any) -> bool:
    if not isinstance(layer.base_layer, FrozenLinear) or layer.lora_variant or len(layer.lora_A) != 1:
        return False
    (name,) = layer.lora_A
    first, second, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    plain = isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and second.bias is None
    return plain and isinstance(dropout, nn.Identity)


class _JoinedLora(nn.Module):
    """Mixed into PEFT's layer, before it."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer: Any = self
        if layer.disable_adapters or layer.merged or args or kwargs or not layer.active_adapters:
            outputs: Tensor = super().forward(x, *args, **kwargs)
            return outputs
        (name,) = layer.lora_A
        base: FrozenLinear = layer.base_layer
        states = x.to(base.weight.dtype)
        weights = layer.lora_A[name].weight, layer.lora_B[name].weight
        outputs = _LoraProduct.apply(states, *weights, layer.scaling[name], base)
        return outputs.to(x.dtype)


class _LoraProduct(torch.autograd.Function):
    """x Wᵀ + scale · (x Aᵀ) Bᵀ (arXiv 2106.09685, equation 3); A and B are rounded to the type of x."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, first: Tensor, second: Tensor, scale: float, base: FrozenLinear) -> Tensor:
        """states [..., inputs], first [rank, inputs], second [outputs, rank] → [..., outputs]."""
        rows = states.reshape(-1, states.shape[-1])
        down, up = first.to(states.dtype), second.to(states.dtype)
        inner = rows @ down.T
        outputs = base.product(rows).addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(rows, inner, down, up)
        ctx.scale, ctx.base, ctx.shape = scale, base, states.shape
        return outputs.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        rows, inner, down, up = ctx.saved_tensors
        slope = outputs[0].reshape(len(rows), -1)
        of_inner = (slope @ up).mul_(ctx.scale)
        of_second = (slope.T @ inner).float().mul_(ctx.scale)
        of_first = (of_inner.T @ rows).float()
        of_states = None
        if ctx.needs_input_grad[0]:
            of_states = ctx.base.slope(slope).addmm_(of_inner, down).view(ctx.shape)
        return of_states, of_first, of_second, None, None
