"""Options of `training` that make a step faster without changing what the model learns."""

import importlib.util
import os
import shutil
import sysconfig
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.liger import apply_liger_kernel

from ft_pipeline.errors import UserError
from ft_pipeline.models.attention import reads_end_to_end, use_end_to_end_attention
from ft_pipeline.models.compute_dtype import compute_autocast, compute_dtype
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.model_structure import causal_lm, decoder_layers
from ft_pipeline.models.soft_prompt import learned_prompt
from ft_pipeline.settings.training import TrainingSettings
from ft_pipeline.training.trainer.data_parallel import Ranks
from ft_pipeline.training.trainer.model_probe import keeps_rows_apart, states_of_rows

_COMPILERS = ("g++", "clang++")
_LIGER_OPTIONS = {"cross_entropy": False, "fused_linear_cross_entropy": False}
"""Liger's losses are not used: the trainer's own loss computes the logits of trained tokens only."""
_GPU_ATTENTION_PACKAGES = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flex_attention": "torch",
}
"""Attentions that train on a GPU only, and their packages. torch's flex_attention has no backward pass on a CPU."""


def require_attention(name: str | None, device: str) -> None:
    """Raise UserError if this machine cannot train with the attention `name`."""
    if name not in _GPU_ATTENTION_PACKAGES:
        return
    if not device.startswith("cuda"):
        raise UserError(
            f"training.attn_implementation is {name}, which needs a GPU, but this run trains on {device}. Remove it."
        )
    package = _GPU_ATTENTION_PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"training.attn_implementation is {name}, but the package {package} is not installed. Install it, or "
            "remove attn_implementation."
        )


def speed_up(model: Any, training: TrainingSettings, device: str, ranks: Ranks | None = None) -> None:
    """Apply padding_free, use_liger_kernel and torch_compile to `model`, as `training` requests them.

    If `training` does not set padding_free, it is used on a CPU if the model supports it. Without torch_compile and
    without sharded weights, the frozen matrices are packed. UserError if this model or this machine does not support
    a requested option.
    """
    ranks = ranks or Ranks()
    if training.padding_free:
        if (reason := _try_end_to_end(model, ranks)) is not None:
            raise UserError(f"training.padding_free: {reason}. Remove padding_free.")
    elif training.padding_free is None and device == "cpu" and _allows_end_to_end(model, training):
        _try_end_to_end(model, ranks)
    if training.use_liger_kernel:
        _require_liger(device)
        apply_liger_kernel(model, _LIGER_OPTIONS)
    if training.torch_compile:
        _require_compiler(device)
        _compile_layers(model)
    elif not ranks.sharded:
        speed_up_products(model, trains=True)


def _allows_end_to_end(model: Any, training: TrainingSettings) -> bool:
    """Whether the settings allow rows that are laid end to end, and no learned prompt precedes each row."""
    return training.allows_rows_end_to_end and learned_prompt(model) is None


def _try_end_to_end(model: Any, ranks: Ranks) -> str | None:
    """Let the model read batches without padding, and return None. If it cannot, leave it unchanged and return why."""
    if reads_end_to_end(model):
        return None
    causal = causal_lm(model)
    previous = causal.config._attn_implementation
    separate = ranks.run(states_of_rows, model)
    if (reason := use_end_to_end_attention(model)) is not None:
        return f"{reason}, so its rows cannot be laid end to end"
    with compute_autocast(model):  # as in training: a GPU's kernel accepts 16 bit only
        end_to_end = ranks.run(partial(states_of_rows, end_to_end=True), model)
    if keeps_rows_apart(separate, end_to_end):
        return None
    causal.set_attn_implementation(previous)
    return f"a {causal.config.model_type} model mixes rows that are laid end to end"


def _compile_layers(model: Any) -> None:
    """Compile each layer separately. Layers share their code, which is compiled once, in seconds instead of minutes."""
    compiled_layers = decoder_layers(model)
    if not compiled_layers:
        raise UserError(
            f"training.torch_compile: the layers of a {causal_lm(model).config.model_type} model are not known. "
            "Remove torch_compile."
        )
    for layer in compiled_layers:
        layer.compile(dynamic=True)


def is_compiled(model: Any) -> bool:
    """Whether layers of the model are compiled."""
    return any(layer._compiled_call_impl is not None for layer in decoder_layers(model) or ())


def _require_liger(device: str) -> None:
    if not device.startswith("cuda"):
        raise UserError(f"training.use_liger_kernel needs a GPU, but this run trains on {device}. Remove it.")
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError(
            "training.use_liger_kernel needs liger-kernel, which is not installed. Run "
            "`pip install 'ft-pipeline[liger]'`, or remove it."
        )


def _require_compiler(device: str) -> None:
    if device == "cpu" and (reason := why_not_compiled()):
        raise UserError(f"training.torch_compile: {reason}, or remove torch_compile.")


def why_not_compiled() -> str | None:
    """Return why torch's compiler cannot be used on this CPU, and how to fix that; None if it can.

    With torch 2.13, compiled LoRA layers gave NaN in float32 and corrupted the heap. In bfloat16 they train correctly.
    """
    if compute_dtype("cpu") == torch.float32:
        return "compiled layers give wrong results in float32 on a CPU. Train where `ft doctor` shows bfloat16"
    missing = _missing_for_compiling()
    return f"compilation needs {missing}" if missing else None


def _missing_for_compiling() -> str | None:
    """Return what torch's compiler needs on a CPU and this machine lacks, and how to install it; None if complete."""
    compiler = os.environ.get("CXX")
    if not any(map(shutil.which, [compiler] if compiler else _COMPILERS)):
        return f"a C++ compiler, but {compiler or ' or '.join(_COMPILERS)} was not found. Run `apt install g++`"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "the headers of this Python, which were not found. Run `apt install python3-dev`"
    return None


def without_compiled_code() -> Any:
    """Return a context in which models run uncompiled: compiling them for a held-out loss would take longer."""
    return torch.compiler.set_stance("force_eager")
