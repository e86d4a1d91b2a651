"""Keep the weights of an adapter in 32 bit, and compute in the type of its base model.

A bf16 weight loses every update below a 512th of it: DoRA's magnitudes, which are near 1, would never change, and
weight decay would have no effect. PEFT therefore widens every activation to 32 bit, which on a CPU can take longer than
the base model's own products. Here the small matrices are rounded instead, once for each product, as in mixed-precision
training (Micikevicius et al. 2018, arXiv 1710.03740): the optimizer uses 32 bit, and products run in the base's type.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.nn import functional


class _RoundedLinear(nn.Linear):
    """A linear layer whose weight is rounded to the type of its input in each product."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.to(input.dtype), self.bias)


def keep_adapter_in_32_bit(model: Any) -> None:
    """Widen the trainable weights of a PEFT `model` to 32 bit, in place.

    LoRA matrices then compute in the type of their input. DoRA layers are left to PEFT: they need the norm of the whole
    matrix, which PEFT computes in 32 bit.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    compute_in_base_dtype(model)


def compute_in_base_dtype(model: Any) -> None:
    """Let the plain LoRA matrices of a PEFT `model` compute in the type of their input, whatever their own type is."""
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
    """Set DoRA's magnitudes of a new adapter to the norms of its base matrices in 32 bit (arXiv 2402.09353, eq. 5).

    PEFT computes them in the base's type, so that the model would start with a deviation of up to 0.4 % from its base.
    """
    for module in model.modules():
        for magnitude in (getattr(module, "lora_magnitude_vector", None) or {}).values():
            weight = dequantize_module_weight(module.get_base_layer()).float()
            matrix = weight.T if getattr(module, "fan_in_fan_out", False) else weight
            magnitude.weight.data = matrix.norm(dim=1)
