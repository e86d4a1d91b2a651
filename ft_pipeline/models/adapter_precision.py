"""Adapters keep 32-bit weights, and compute in the type of their base model.

A 16-bit weight loses every update below a 256th of it: DoRA's magnitudes, which are near 1, would never move, and
weight decay would do nothing. PEFT's answer is to widen every activation to 32 bit, which on a CPU can take longer than
the base model's own products. Here the small matrices are rounded instead, once for each product, as mixed-precision
training does (Micikevicius et al. 2018, arXiv 1710.03740): the optimizer sees 32 bit, products run in the base's type.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.nn import functional


class _RoundedLinear(nn.Linear):
    """A linear layer whose weight is rounded to the type of its input, product by product."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.to(input.dtype), self.bias)


def keep_adapter_in_32_bit(model: Any) -> None:
    """Widen the trainable weights of a PEFT `model` to 32 bit, in place.

    LoRA matrices then compute in the type of what they read. DoRA needs the norm of the whole matrix: PEFT computes
    that in 32 bit.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    compute_in_base_dtype(model)


@contextmanager
def weights_kept(model: Any) -> Iterator[None]:
    """Give the trainable weights of `model` back as they were before the context: TRL rounds the matrices of an adapter
    on a quantized model to bf16, also those that were trained before."""
    exact = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
    yield
    for name, weight in model.named_parameters():
        if name in exact:
            weight.data = exact[name]


def compute_in_base_dtype(model: Any) -> None:
    """Let the LoRA matrices of a PEFT `model` compute in the type of what they read, whatever type they have."""
    for module in model.modules():
        if not isinstance(module, LoraLayer) or module.lora_variant:
            continue
        module.cast_input_dtype_enabled = False
        for matrices in (module.lora_A, module.lora_B):
            for matrix in matrices.values():
                if type(matrix) is nn.Linear:
                    matrix.__class__ = _RoundedLinear


@torch.no_grad()
def set_exact_magnitudes(model: Any) -> None:
    """Set DoRA's magnitudes of a fresh adapter to the norms of its base matrices in 32 bit (arXiv 2402.09353, equation
    5).

    PEFT computes them in the base's type. The model would begin up to 0.4 % away from its base.
    """
    for module in model.modules():
        for magnitude in (getattr(module, "lora_magnitude_vector", None) or {}).values():
            weight = dequantize_module_weight(module.get_base_layer()).float()
            matrix = weight.T if getattr(module, "fan_in_fan_out", False) else weight
            magnitude.weight.data = matrix.norm(dim=1)
