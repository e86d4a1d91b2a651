"""Which matrices LoRA stands beside: the names of the settings, held against those that the model has."""

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ft_pipeline.errors import UserError
from ft_pipeline.settings.experiment import ATTENTION, LoraSettings

_SIGNS = ("attn", "attention")
"""In the name of the module that holds a layer's attention, whatever the architecture."""
_OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""What PEFT calls the parts of a mixture of experts, which transformers keeps as one parameter for all experts."""


def targets_in(model: Any, wanted: list[str] | str) -> list[str] | str:
    """`lora.target_modules` as PEFT is to have it, for a causal LM without an adapter.

    ATTENTION means the attention's matrices; where a model names or joins them otherwise (c_attn, qkv_proj), those.
    UserError where another name is that of no matrix.
    """
    if isinstance(wanted, str):
        return wanted
    there = _matrices(model)
    known = {*_OF_EXPERTS} if _has_experts(model) else set()
    missing = [name for name in wanted if name not in known and not any(_ends_with(each, name) for each in there)]
    if not missing:
        return wanted
    attention = sorted({".".join(name.split(".")[-2:]) for name in there if _is_of_attention(name)})
    if wanted == [*ATTENTION] and attention:
        return attention
    raise UserError(
        f"lora.target_modules: this {model.config.model_type} model has no matrix {' or '.join(missing)}; name some of "
        f"{', '.join(sorted({name.split('.')[-1] for name in there}))}, or say `target_modules: all-linear`"
    )


def require_mergeable(model: Any, lora: LoraSettings) -> None:
    """UserError where `model`, which has its adapter, learns something that could not be merged, or where a pattern is
    of nothing that learns."""
    adapted = {name: each for name, each in model.named_modules() if isinstance(each, BaseTunerLayer)}
    head = model.get_output_embeddings()
    for name, module in adapted.items():
        if module is head or isinstance(module.get_base_layer(), nn.Embedding):
            raise UserError(
                f"lora.target_modules names {name.split('.')[-1]}, which is no matrix of a layer: embeddings and head "
                "stay as they are; remove it, or say `technique: full`"
            )
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, key):
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in adapted):
                raise UserError(f"lora.{key} holds {pattern!r}, which is the name of no matrix that learns; remove it")


def _matrices(model: Any) -> list[str]:
    """Full names of what LoRA can stand beside, the head left out."""
    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    return [name for name, each in model.named_modules() if isinstance(each, kinds) and each is not head]


def _has_experts(model: Any) -> bool:
    return any(parameter.dim() == 3 for name, parameter in model.named_parameters() if "experts" in name)


def _ends_with(full: str, name: str) -> bool:
    return full == name or full.endswith(f".{name}")


def _is_of_attention(full: str) -> bool:
    return any(sign in part for part in full.split(".")[:-1] for sign in _SIGNS)
