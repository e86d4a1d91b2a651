"""4-bit matrices in the compute type, once and for all, where memory allows it: the same values without the work.

On a CPU bitsandbytes dequantizes every matrix in every forward pass, and again in every backward pass.
"""

from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

_SPARE = 2.0
"""Free memory that it takes, in sizes of the dequantized matrices: the rest is for what the model computes."""


class DequantizedLinear(nn.Linear):
    """What bitsandbytes' Linear4bit computes, whose input may be of another type than its weights."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs.to(self.weight.dtype), self.weight, self.bias).to(inputs.dtype)


def dequantize_once(model: Any) -> bool:
    """Replace each Linear4bit of `model` on a CPU by its dequantized matrix; whether it did.

    Logits and gradients stay equal bit for bit. Adapters stay as they are: each Linear4bit is replaced inside PEFT's
    layer around it. The 4-bit matrices are gone afterwards, so do not merge, save or quantize this model.

    Nothing changes where memory is short, where a matrix is on a GPU, where bitsandbytes has repacked it for inference
    (see load.keep_weights_unpacked), or where it was loaded in another type than it computes in: forward and backward
    pass use different values then.
    """
    places = _places(model)
    needed = sum(layer.in_features * layer.out_features * _bytes(layer) for _, _, layer in places)
    if not places or not all(_plain(layer) for _, _, layer in places):
        return False
    if psutil.virtual_memory().available < _SPARE * needed:
        return False
    for parent, name, layer in places:
        setattr(parent, name, _dequantized(layer))
    return True


def _places(model: Any) -> list[tuple[nn.Module, str, Any]]:
    """Each Linear4bit with its parent and its name there."""
    from bitsandbytes.nn import Linear4bit

    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, Linear4bit)
    ]


def _plain(layer: Any) -> bool:
    state = layer.weight.quant_state
    return (
        layer.weight.device.type == "cpu"
        and state is not None
        and not getattr(state, "packing_format_for_cpu", False)
        and state.dtype == layer.compute_dtype
    )


def _bytes(layer: Any) -> int:
    return torch.empty((), dtype=layer.compute_dtype).element_size()


def _dequantized(layer: Any) -> DequantizedLinear:
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    plain = DequantizedLinear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.data.to(weight.dtype), requires_grad=layer.bias.requires_grad)
    return plain.train(layer.training)
