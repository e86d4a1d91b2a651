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
_WRAPPED = ".base_layer"
"""PEFT's name for the inner module of a wrapper, when it adapts two parameters of the same module."""
_PARTS = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")


@dataclass(frozen=True)
class Update:
    """The change that an adapter makes to one matrix W, or to the matrices of all experts of a layer."""

    name: str
    """Name of the module."""
    inner: Tensor
    """A [r, inputs]; of experts [experts · r, inputs]."""
    outer: Tensor
    """B [outputs, r]; of experts [outputs, r · experts]."""
    config: dict[str, Any]
    """adapter_config.json."""
    magnitude: Tensor | None = None
    """DoRA: the norm to which each row of W + delta is scaled [outputs] (arXiv 2402.09353, equation 5)."""

    def apply(self, weight: Tensor) -> Tensor:
        """Return the new matrix [outputs, inputs], summed in fp32, in W's dtype and on its device."""
        inner, outer = self.inner.to(weight.device).float(), self.outer.to(weight.device).float()
        total = weight.float() + self._scaling(self.name, len(inner)) * (outer @ inner)
        if self.magnitude is not None:
            total *= (self.magnitude.to(weight.device).float() / total.norm(dim=1))[:, None]
        return total.to(weight.dtype)

    def add_to(self, model: Any) -> None:
        """Write the new weights to their module in `model`."""
        module = model.get_submodule(self.name.replace(_WRAPPED, ""))
        weight = getattr(module, "weight", None)
        if weight is None:
            self._add_to_experts(module)
        else:
            weight.data = as_stored(module, self.apply(as_matrix(module, weight.data)))

    def _add_to_experts(self, module: Any) -> None:
        """Add to the matrices of all experts. PEFT stacks the A of the experts along the rows, and interleaves their B
        along the columns (expert by expert for each rank)."""
        transposed = getattr(module, "is_transposed", False)  # [experts, inputs, outputs], else outputs before inputs
        wanted = (self.inner.shape[1], self.outer.shape[0])
        for name, parameter in module.named_parameters(recurse=False):
            shape = tuple(parameter.shape)
            if len(shape) != 3 or (shape[1:] if transposed else shape[:0:-1]) != wanted:
                continue
            experts = shape[0]
            inner = self.inner.to(parameter.device).float().view(experts, -1, wanted[0])
            outer = self.outer.to(parameter.device).float().view(wanted[1], -1, experts).permute(2, 0, 1)
            scaling = self._scaling(f"{self.name.replace(_WRAPPED, '')}.{name}", inner.shape[1])
            for expert, matrix in enumerate(parameter.data):
                delta = scaling * (outer[expert] @ inner[expert])
                matrix.copy_(matrix.float() + (delta.T if transposed else delta))
            return
        raise UserError(f"The adapter's {self.name} does not match any parameter of the model. Train it again.")

    def _scaling(self, name: str, rank: int) -> float:
        """Return alpha/r, or alpha/sqrt(r) with rsLoRA (arXiv 2312.03732). If a pattern matches the module, its alpha
        is used."""
        patterns = self.config.get("alpha_pattern") or {}
        own = (patterns[key] for key in patterns if re.match(rf"(.*\.)?({key})$", name))
        alpha: float = next(own, self.config["lora_alpha"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


def as_matrix(module: Any, weight: Tensor) -> Tensor:
    """Return a module's weight as [outputs, inputs]. GPT-2's Conv1D keeps it transposed."""
    return weight.T if isinstance(module, Conv1D) else weight


def as_stored(module: Any, matrix: Tensor) -> Tensor:
    """Return a matrix [outputs, inputs] in the layout that the module keeps."""
    return matrix.T.contiguous() if isinstance(module, Conv1D) else matrix


def lora_updates(adapter: Path) -> dict[str, Update]:
    """Return the updates of a PEFT folder of LoRA matrices, by module name. UserError if it has other parts."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    for key in ("modules_to_save", "lora_bias", "trainable_token_indices"):
        if config.get(key):
            raise _more_than_lora(key)
    weights = load_file(adapter / "adapter_model.safetensors")
    for key in weights:
        if not key.endswith(_PARTS):
            raise _more_than_lora(key)
    names = sorted(key.removesuffix(_PARTS[0]) for key in weights if key.endswith(_PARTS[0]))
    return {name.removeprefix(_PREFIX): _update(name, weights, config) for name in names}


def _update(name: str, weights: dict[str, Tensor], config: dict[str, Any]) -> Update:
    inner, outer, magnitude = (weights.get(name + part) for part in _PARTS)
    assert inner is not None and outer is not None
    return Update(name.removeprefix(_PREFIX), inner, outer, config, magnitude)


def _more_than_lora(what: str) -> UserError:
    return UserError(
        f"The adapter uses {what}, which cannot be merged. Train without it, or serve the adapter unmerged."
    )
