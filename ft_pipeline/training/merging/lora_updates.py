"""The update that a LoRA adapter adds to the weights: (alpha/r)·B·A, summed in 32 bit."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ft_pipeline.errors import UserError

_PREFIX = "base_model.model."
"""What PEFT adds before the name of a module."""
_WRAPPED_SUFFIX = ".base_layer"
"""What PEFT adds to the name of a module if it adapts two of its parameters: one wrapper then contains the other."""
_A_SUFFIX, _B_SUFFIX, _MAGNITUDE_SUFFIX = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
"""What PEFT adds to the name of a module in the keys of an adapter's weights."""


@dataclass(frozen=True)
class LoraUpdate:
    """The change that an adapter makes to one matrix W, or to the matrices of all experts of a layer."""

    name: str
    """Name of the module."""
    lora_a: Tensor
    """A [r, inputs]; for experts [experts · r, inputs]."""
    lora_b: Tensor
    """B [outputs, r]; for experts [outputs, r · experts]."""
    config: dict[str, Any]
    """The content of adapter_config.json."""
    magnitude: Tensor | None = None
    """DoRA: the norm to which each row of W + delta is scaled [outputs] (arXiv 2402.09353, equation 5)."""

    def apply(self, weight: Tensor) -> Tensor:
        """Return the new matrix [outputs, inputs], summed in fp32, in W's dtype and on its device."""
        lora_a, lora_b = self.lora_a.to(weight.device).float(), self.lora_b.to(weight.device).float()
        total = weight.float() + self._scaling(self.name, len(lora_a)) * (lora_b @ lora_a)
        if self.magnitude is not None:
            total *= (self.magnitude.to(weight.device).float() / total.norm(dim=1))[:, None]
        return total.to(weight.dtype)

    def add_to(self, model: Any) -> None:
        """Write the new weights to their module in `model`."""
        module = model.get_submodule(self.name.replace(_WRAPPED_SUFFIX, ""))
        weight = getattr(module, "weight", None)
        if weight is None:
            self._add_to_experts(module)
        else:
            weight.data = as_stored(module, self.apply(as_matrix(module, weight.data)))

    def _add_to_experts(self, module: Any) -> None:
        """Add to the matrices of all experts. PEFT stacks the A of the experts along the rows, and interleaves their B
        along the columns (expert by expert for each rank)."""
        transposed = getattr(module, "is_transposed", False)  # [experts, inputs, outputs], else outputs before inputs
        sizes = (self.lora_a.shape[1], self.lora_b.shape[0])
        for name, parameter in module.named_parameters(recurse=False):
            shape = tuple(parameter.shape)
            if len(shape) != 3 or (shape[1:] if transposed else shape[:0:-1]) != sizes:
                continue
            experts = shape[0]
            lora_a = self.lora_a.to(parameter.device).float().view(experts, -1, sizes[0])
            lora_b = self.lora_b.to(parameter.device).float().view(sizes[1], -1, experts).permute(2, 0, 1)
            scaling = self._scaling(f"{self.name.replace(_WRAPPED_SUFFIX, '')}.{name}", lora_a.shape[1])
            for expert, matrix in enumerate(parameter.data):
                delta = scaling * (lora_b[expert] @ lora_a[expert])
                matrix.copy_(matrix.float() + (delta.T if transposed else delta))
            return
        raise UserError(f"The adapter's {self.name} does not match any parameter of the model. Train it again.")

    def _scaling(self, name: str, rank: int) -> float:
        """Return alpha/r, or alpha/sqrt(r) with rsLoRA (arXiv 2312.03732). If a pattern matches the module, its alpha
        is used."""
        patterns = self.config.get("alpha_pattern") or {}
        matching = (patterns[key] for key in patterns if re.match(rf"(.*\.)?({key})$", name))
        alpha: float = next(matching, self.config["lora_alpha"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


def as_matrix(module: Any, weight: Tensor) -> Tensor:
    """Return a module's weight as [outputs, inputs]. GPT-2's Conv1D keeps it transposed."""
    return weight.T if isinstance(module, Conv1D) else weight


def as_stored(module: Any, matrix: Tensor) -> Tensor:
    """Return a matrix [outputs, inputs] in the layout that the module keeps."""
    return matrix.T.contiguous() if isinstance(module, Conv1D) else matrix


def lora_updates(adapter: Path) -> dict[str, LoraUpdate]:
    """Return the updates of a PEFT folder of LoRA matrices, by module name. UserError if it has other parts."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    for key in ("modules_to_save", "lora_bias", "trainable_token_indices"):
        if config.get(key):
            raise _unmergeable(key)
    weights = load_file(adapter / "adapter_model.safetensors")
    for key in weights:
        if not key.endswith((_A_SUFFIX, _B_SUFFIX, _MAGNITUDE_SUFFIX)):
            raise _unmergeable(key)
    names = sorted(key.removesuffix(_A_SUFFIX) for key in weights if key.endswith(_A_SUFFIX))
    return {name.removeprefix(_PREFIX): _read_update(name, weights, config) for name in names}


def _read_update(name: str, weights: dict[str, Tensor], config: dict[str, Any]) -> LoraUpdate:
    lora_a, lora_b = weights.get(name + _A_SUFFIX), weights.get(name + _B_SUFFIX)
    assert lora_a is not None and lora_b is not None
    return LoraUpdate(name.removeprefix(_PREFIX), lora_a, lora_b, config, weights.get(name + _MAGNITUDE_SUFFIX))


def _unmergeable(part: str) -> UserError:
    return UserError(
        f"The adapter uses {part}, which cannot be merged. Train without it, or serve the adapter unmerged."
    )
