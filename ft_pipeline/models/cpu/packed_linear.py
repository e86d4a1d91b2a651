"""Keep the matrices of frozen linear layers packed: in the layout that oneDNN multiplies fastest.

On a CPU every product of a plain linear layer first copies its matrix into that layout. Here it is copied once. In
bfloat16 the products stay equal bit for bit; in float32 they differ in the order of their sums.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ft_pipeline.models.compute_dtype import onednn_has_bf16
from ft_pipeline.models.cpu.dequantize import DequantizedLinear, has_memory_for

_PACKABLE_LAYERS = (nn.Linear, DequantizedLinear)
"""Layers whose forward pass is only a product and a bias."""


class FrozenLinear(nn.Linear):
    """A linear layer whose weight must not change after `pack_frozen` made it."""

    packed: Tensor
    """The weight [outputs, inputs], packed."""
    packed_back: Tensor | None
    """The transposed weight, packed, for the backward pass; None if the model does not train."""

    def forward(self, input: Tensor) -> Tensor:
        states = input.to(self.weight.dtype)
        if states.requires_grad and torch.is_grad_enabled():
            outputs: Tensor = _Product.apply(states, self)
        else:
            outputs = self.product(states)
        return outputs.to(input.dtype)

    def product(self, states: Tensor) -> Tensor:
        """Return the outputs, bias included, without a gradient: [..., inputs] → [..., outputs]."""
        if not states.numel():
            return functional.linear(states, self.weight, self.bias)
        outputs: Tensor = _packed_product(states.contiguous(), self.packed, self.bias)
        return outputs

    def input_gradient(self, output_gradient: Tensor) -> Tensor:
        """Return the gradient [..., inputs] of the layer's input, from that of its outputs [..., outputs]."""
        if self.packed_back is None or not output_gradient.numel():
            return output_gradient @ self.weight
        gradient: Tensor = _packed_product(output_gradient.contiguous(), self.packed_back, None)
        return gradient

    def __deepcopy__(self, memo: Any) -> "FrozenLinear":
        raise TypeError("a packed layer cannot be copied; load the model again")


class _Product(torch.autograd.Function):
    """The product of a FrozenLinear. Only its input gets a gradient."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(states)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.input_gradient(outputs[0]), None


def pack_frozen(model: Any, *, trains: bool) -> bool:
    """Turn each frozen linear layer of `model` on an x86 CPU into a FrozenLinear. Return whether it did.

    trains: whether gradients flow through the model. If so, the transposed matrices are packed too. The weights
    themselves stay, also those that are tied to an embedding. Call it after the last change of a weight.

    Nothing changes if free memory is below twice the size of the packed matrices.
    """
    dtypes = _packed_dtypes()
    frozen = [module for module in model.modules() if _is_packable(module, dtypes)]
    needed = (2 if trains else 1) * sum(layer.weight.nbytes for layer in frozen)
    if not frozen or not has_memory_for(needed):
        return False
    for layer in frozen:
        layer.__class__ = FrozenLinear
        layer.packed = _pack(layer.weight)
        layer.packed_back = _pack(layer.weight.T.contiguous()) if trains else None
    return True


def _is_packable(module: Any, dtypes: tuple[torch.dtype, ...]) -> bool:
    if type(module) not in _PACKABLE_LAYERS:
        return False
    weight, bias = module.weight, module.bias
    is_frozen = not weight.requires_grad and (bias is None or (not bias.requires_grad and bias.dtype == weight.dtype))
    return is_frozen and weight.device.type == "cpu" and weight.dtype in dtypes


def _packed_dtypes() -> tuple[torch.dtype, ...]:
    """Return the types in which this torch multiplies packed matrices on this CPU. Empty except on x86: ARM is not
    tested."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if platform.machine() not in ("x86_64", "AMD64") or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return ()
    return (torch.float32, torch.bfloat16) if onednn_has_bf16() else (torch.float32,)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    return packed


def _packed_product(states: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return outputs
