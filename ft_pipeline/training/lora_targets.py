"""Resolve the matrices that LoRA adapts: compare the names in the settings with those in the model."""

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ft_pipeline.errors import UserError
from ft_pipeline.settings.training import ATTENTION, LoraSettings

_ATTENTION_WORDS = ("attn", "attention")
"""Words in the name of a layer's attention module, in all architectures."""
_EXPERT_PARTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""PEFT's names for the matrices of experts, which transformers keeps as one parameter for all experts of a layer."""


def resolve_targets(model: Any, target_modules: list[str] | str) -> list[str] | str:
    """Return `lora.target_modules` in the form that PEFT needs, for a causal LM without an adapter.

    ATTENTION means the attention matrices, even if a model gives them other names or joins them (c_attn, qkv_proj).
    UserError if any other name does not match a matrix.
    """
    if isinstance(target_modules, str):
        return target_modules
    matrices = _matrix_names(model)
    expert_parts = {*_EXPERT_PARTS} if _has_experts(model) else set()
    missing = [
        name
        for name in target_modules
        if name not in expert_parts and not any(_ends_with(matrix, name) for matrix in matrices)
    ]
    if not missing:
        return target_modules
    attention = sorted({".".join(name.split(".")[-2:]) for name in matrices if _is_in_attention(name)})
    if target_modules == [*ATTENTION] and attention:
        return attention
    raise UserError(
        f"lora.target_modules: this {model.config.model_type} model has no matrix {' or '.join(missing)}. Choose from "
        f"{', '.join(sorted({name.split('.')[-1] for name in matrices}))}, or set `target_modules: all-linear`."
    )


def require_mergeable(model: Any, lora: LoraSettings) -> None:
    """Raise UserError if the adapter of `model` has a part that cannot be merged, or if a pattern does not match any
    trained matrix."""
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


def _matrix_names(model: Any) -> list[str]:
    """Return the full names of the matrices that LoRA can adapt, without the head."""
    head = model.get_output_embeddings()
    layer_types = (nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, layer_types) and module is not head]


def _has_experts(model: Any) -> bool:
    return any(parameter.dim() == 3 for name, parameter in model.named_parameters() if "experts" in name)


def _ends_with(full_name: str, name: str) -> bool:
    return full_name == name or full_name.endswith(f".{name}")


def _is_in_attention(full_name: str) -> bool:
    return any(word in part for part in full_name.split(".")[:-1] for word in _ATTENTION_WORDS)
