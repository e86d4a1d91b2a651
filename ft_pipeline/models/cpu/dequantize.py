"""Dequantize 4-bit matrices once, not in every forward and backward pass. The results are equal bit for bit."""

from typing import Any

import psutil
from torch import Tensor, nn
from torch.nn import functional

_FREE_MEMORY_FACTOR = 2.0
"""Required free memory, as a multiple of the size of the new matrices. What they do not take is for activations."""


class DequantizedLinear(nn.Linear):
    """A linear layer that computes what bitsandbytes' Linear4bit does. Input and output may have another dtype than the
    weights."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs.to(self.weight.dtype), self.weight, self.bias).to(inputs.dtype)


def dequantize_once(model: Any) -> bool:
    """Replace each Linear4bit of `model` on a CPU by a linear layer in the compute type. Return whether it did.

    Logits and gradients stay equal bit for bit. Call it after the adapter is loaded: each Linear4bit is replaced inside
    PEFT's wrapper, which rounds the LoRA product as before. The 4-bit weights are freed, so the model cannot be merged
    or saved in 4 bit afterwards.

    Nothing changes if free memory is below twice the size of the dequantized matrices, if a matrix is on a GPU, if
    bitsandbytes has repacked it for inference (see load.keep_weights_unpacked), or if it was loaded in another dtype
    than it computes in. In the last case bitsandbytes uses different values forward and backward.
    """
    children = _four_bit_layers(model)
    if not children or not all(_is_replaceable(layer) for _, _, layer in children):
        return False
    needed = sum(layer.in_features * layer.out_features * layer.compute_dtype.itemsize for _, _, layer in children)
    if not has_memory_for(needed):
        return False
    for parent, name, layer in children:
        setattr(parent, name, _dequantize(layer))
    return True


def has_memory_for(size: int) -> bool:
    """Whether new matrices of `size` bytes leave enough free memory."""
    return psutil.virtual_memory().available >= _FREE_MEMORY_FACTOR * size


def _four_bit_layers(model: Any) -> list[tuple[nn.Module, str, Any]]:
    """Return each Linear4bit of `model`, after its parent module and its name in the parent."""
    from bitsandbytes.nn import Linear4bit

    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, Linear4bit)
    ]


def _is_replaceable(layer: Any) -> bool:
    """Whether replacing a Linear4bit leaves its results unchanged."""
    state = getattr(layer.weight, "quant_state", None)
    return (
        layer.weight.device.type == "cpu"
        and state is not None
        and not getattr(state, "packing_format_for_cpu", False)
        and state.dtype == layer.compute_dtype
    )


def _dequantize(layer: Any) -> DequantizedLinear:
    """Return the layer that replaces a Linear4bit."""
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    linear = DequantizedLinear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias.data.to(weight.dtype), requires_grad=layer.bias.requires_grad)
    return linear.train(layer.training)
