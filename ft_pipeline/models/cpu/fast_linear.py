"""Fast products on a CPU: all changes to the linear layers of a loaded model, in the only correct order."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ft_pipeline.models.cpu.dequantize import dequantize_once
from ft_pipeline.models.cpu.packed_linear import FrozenLinear, pack_frozen


class _FusedLora(nn.Module):
    """The forward pass of a fused layer: a base class that precedes PEFT's class of the layer."""

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
    def forward(ctx: Any, states: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float, base: FrozenLinear) -> Tensor:
        """states [..., inputs], lora_a [rank, inputs], lora_b [outputs, rank] → [..., outputs]."""
        rows = states.reshape(-1, states.shape[-1])
        rounded_a, rounded_b = lora_a.to(states.dtype), lora_b.to(states.dtype)
        inner = rows @ rounded_a.T
        outputs = base.product(rows).addmm_(inner, rounded_b.T, alpha=scale)
        ctx.save_for_backward(rows, inner, rounded_a, rounded_b)
        ctx.scale, ctx.base, ctx.shape = scale, base, states.shape
        return outputs.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        rows, inner, rounded_a, rounded_b = ctx.saved_tensors
        output_gradient = outputs[0].reshape(len(rows), -1)
        inner_gradient = (output_gradient @ rounded_b).mul_(ctx.scale)
        b_gradient = (output_gradient.T @ inner).float().mul_(ctx.scale)
        a_gradient = (inner_gradient.T @ rows).float()
        states_gradient = None
        if ctx.needs_input_grad[0]:
            states_gradient = ctx.base.input_gradient(output_gradient).addmm_(inner_gradient, rounded_a).view(ctx.shape)
        return states_gradient, a_gradient, b_gradient, None, None


def speed_up_products(model: Any, *, trains: bool) -> None:
    """Dequantize 4-bit matrices once, pack frozen ones, and fuse LoRA with them, if memory allows. On a GPU nothing
    changes.

    trains: whether gradients will flow through `model`. Otherwise all its weights are frozen first. Call it when every
    weight is loaded; the model cannot be merged, copied or saved in 4 bit afterwards.
    """
    if not trains:
        model.requires_grad_(False)
    dequantize_once(model)
    pack_frozen(model, trains=trains)
    fuse_lora(model)


def fuse_lora(model: Any) -> int:
    """Let each plain LoRA layer of a PEFT `model` on a FrozenLinear compute as one function. Return how many do.

    Layers with dropout, DoRA, a bias of LoRA's own, or more than one adapter are left to PEFT.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _is_fusible(module)]
    for module in layers:
        module.__class__ = type(f"Fused{type(module).__name__}", (_FusedLora, type(module)), {})
    return len(layers)


def _is_fusible(layer: Any) -> bool:
    """Whether the layer is plain LoRA on a FrozenLinear."""
    if not isinstance(layer.base_layer, FrozenLinear) or layer.lora_variant or len(layer.lora_A) != 1:
        return False
    (name,) = layer.lora_A
    lora_a, lora_b, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    plain = isinstance(lora_a, nn.Linear) and isinstance(lora_b, nn.Linear) and lora_b.bias is None
    return plain and isinstance(dropout, nn.Identity)
