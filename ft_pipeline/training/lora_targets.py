"""Select the matrices that LoRA adapts: compare the names in the settings with those of the model."""

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ft_pipeline.errors import UserError
from ft_pipeline.settings.training import ATTENTION, LoraSettings

_SIGNS = ("attn", "attention")
"""Parts of the name of a layer's attention module, whatever the architecture."""
_OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""PEFT's names for the parts of a mixture of experts, which transformers keeps as one parameter for all experts."""


def targets_in(model: Any, wanted: list[str] | str) -> list[str] | str:
    """Return `lora.target_modules` in the form that PEFT needs, for a causal LM without an adapter.

    ATTENTION means the attention matrices, also if a model names or joins them differently (c_attn, qkv_proj).
    UserError if any other name does not match a matrix.
    """
    if isinstance(wanted, str):
        return wanted
    there = _matrices(model)
    known = {*_OF_EXPERTS} if _has_experts(model) else set()
    missing = [name for name in wanted if name not in known and not any(_ends_with(full, name) for full in there)]
    if not missing:
        return wanted
    attention = sorted({".".join(name.split(".")[-2:]) for name in there if _is_of_attention(name)})
    if wanted == [*ATTENTION] and attention:
        return attention
    raise UserError(
        f"lora.target_modules: this {model.config.model_type} model has no matrix {' or '.join(missing)}. Choose from "
        f"{', '.join(sorted({name.split('.')[-1] for name in there}))}, or set `target_modules: all-linear`."
    )


def require_mergeable(model: Any, lora: LoraSettings) -> None:
    """Raise UserError if `model` (with its adapter) trains a part that cannot be merged, or if a pattern does not match
    any trained matrix."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    head = model.get_output_embeddings()
    for name, module in adapted.items():
        if module is head or isinstance(module.get_base_layer(), nn.Embedding):
            raise UserError(
                f"lora.target_modules names {name.split('.')[-1]}, but embeddings and the head are not trained with "
                "LoRA. Remove it, or set `technique: full`."
            )
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, key):
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in adapted):
                raise UserError(f"lora.{key} contains {pattern!r}, which matches no trained matrix. Remove it.")


def _matrices(model: Any) -> list[str]:
    """Full names of the matrices that LoRA can adapt, without the head."""
    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]


def _has_experts(model: Any) -> bool:
    return any(parameter.dim() == 3 for name, parameter in model.named_parameters() if "experts" in name)


def _ends_with(full: str, name: str) -> bool:
    return full == name or full.endswith(f".{name}")


def _is_of_attention(full: str) -> bool:
    return any(sign in part for part in full.split(".")[:-1] for sign in _SIGNS)
