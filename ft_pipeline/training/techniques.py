"""Prepare a base model for a technique, count its parameters, and load and save its trained weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    PromptTuningInit,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch.distributed.tensor import DTensor
from transformers import set_seed

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.models.adapter_precision import keep_adapter_in_32_bit, set_exact_magnitudes
from ft_pipeline.models.base_model import ORIGIN_FILE
from ft_pipeline.models.compute_dtype import storage_dtype
from ft_pipeline.models.lazy_weights import LazyWeights, as_plain_weights
from ft_pipeline.models.load import keep_weights_unpacked, load_model
from ft_pipeline.models.stored_tensors import StoredTensor, load_into, tensor_names
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.training import LoraSettings, PromptTuningSettings
from ft_pipeline.training.lora_targets import require_mergeable, resolve_targets
from ft_pipeline.training.trainer.checkpoint_state import open_tree, save_tree
from ft_pipeline.training.trainer.data_parallel import Ranks

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The files of a PEFT folder."""
SHARDED_WEIGHTS = "weights"
"""Part of a checkpoint: the weights of a fully trained model that ranks share (checkpoint_state.save_tree)."""
LoadModel = Callable[..., Any]
"""load.load_model, or LazyWeights.load_model."""


def new_sharded_model(
    base: Path, settings: ExperimentSettings, device: str, ranks: Ranks, start: Path | None = None
) -> Any:
    """Return new_model with its weights sharded among the ranks (FSDP2). A rank never holds more than its shards and
    one layer, or its shards and what is outside the layers (embeddings, head)."""
    weights = LazyWeights()
    model = new_model(base, settings, device, start, weights.load_model)

    def fill(module: Any) -> None:
        weights.fill(module)
        if start is None:
            set_exact_magnitudes(module)
        as_plain_weights(module, device)

    ranks.shard(model, fill)
    return model


def new_model(
    base: Path, settings: ExperimentSettings, device: str, start: Path | None = None, load: LoadModel = load_model
) -> Any:
    """Return the base model, seeded and ready to train.

    `full` trains all of it in fp32 (in bf16 with `pure_bf16`). Other techniques freeze it under an adapter: a new one,
    or for LoRA one with the weights of `start` (an adapter folder of the same shape). Adapter weights are 32 bit
    (models/adapter_precision.py explains why). UserError if the settings name modules that the model does not have.
    """
    if settings.technique == "full":
        set_seed(settings.training.seed)
        dtype = torch.bfloat16 if settings.training.pure_bf16 else torch.float32
        return _load_base(load, base, device, settings, dtype=dtype).requires_grad_(True)
    if settings.technique == "prompt_tuning":
        set_seed(settings.training.seed)
        model = get_peft_model(_load_base(load, base, device, settings), prompt_config(settings.prompt_tuning, base))
        keep_adapter_in_32_bit(model)
        return model
    return _new_lora_model(load, base, settings, device, start)


def _new_lora_model(load: LoadModel, base: Path, settings: ExperimentSettings, device: str, start: Path | None) -> Any:
    """Return the base model, in 4 bit for qlora, under LoRA matrices.

    PEFT's k-bit preparation is omitted on purpose: it widens embeddings and head to fp32, which costs memory and most
    of the speed of a small model. PEFT freezes the base by itself.
    """
    quantization = settings.quantization.model_dump() if settings.technique == "qlora" else None
    model = _load_base(load, base, device, settings, quantization=quantization)
    keep_weights_unpacked(model)
    set_seed(settings.training.seed)
    config = lora_config(settings.lora, resolve_targets(model, settings.lora.target_modules))
    try:
        model = get_peft_model(model, config)
    except ValueError as error:  # PEFT raises it if a matrix does not exist or cannot be adapted this way
        reason = first_line(error).rstrip(".")
        raise UserError(f"The settings in `lora` do not fit the model: {reason}. Change or remove them.") from error
    require_mergeable(model, settings.lora)
    keep_adapter_in_32_bit(model)
    set_exact_magnitudes(model)
    if start is not None:
        load_weights(model, start)
    return model


def _load_base(load: LoadModel, base: Path, device: str, settings: ExperimentSettings, **options: Any) -> Any:
    """Load the base model with the attention that the settings name. UserError if the model does not support it."""
    name = settings.training.attn_implementation
    try:
        return load(base, device, attention=name, **options)
    except (ImportError, ValueError) as error:
        if name is None:
            raise
        raise UserError(
            f"training.attn_implementation is {name}, and the model cannot use it: {first_line(error)}. Remove it."
        ) from error


def lora_config(lora: LoraSettings, target_modules: list[str] | str) -> LoraConfig:
    """Return PEFT's configuration for our LoRA settings and the result of lora_targets.resolve_targets."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=target_modules,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        rank_pattern=dict(lora.rank_pattern),  # PEFT adds to them
        alpha_pattern=dict(lora.alpha_pattern),
        task_type="CAUSAL_LM",
    )


def prompt_config(settings: PromptTuningSettings, base: Path) -> PromptTuningConfig:
    """Return PEFT's configuration of a learned prompt. The tokenizer of `base` encodes an initial text."""
    return PromptTuningConfig(
        num_virtual_tokens=settings.num_virtual_tokens,
        prompt_tuning_init=PromptTuningInit(settings.prompt_tuning_init),
        prompt_tuning_init_text=settings.prompt_tuning_init_text,
        tokenizer_name_or_path=str(base) if settings.prompt_tuning_init == "TEXT" else None,
        task_type="CAUSAL_LM",
    )


def count_parameters(model: Any) -> dict[str, Any]:
    """Return the number of trainable parameters, of all parameters (4-bit ones counted unpacked), and the share."""
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1) for parameter in model.parameters())
    return {"trainable_params": trainable, "total_params": total, "trainable_share": trainable / total}


def load_weights(model: Any, folder: Path) -> None:
    """Load the trained weights of a checkpoint into `model`, whose weights may be sharded. Those of the checkpoint may
    be sharded too, among any number of ranks."""
    stored = _stored_weights(model, folder)
    if not isinstance(model, PeftModel):
        for name, weight in model.named_parameters():
            load_into(weight, stored[name])
    elif any(isinstance(weight, DTensor) for weight in model.parameters()):
        for name, weight in get_peft_model_state_dict(model).items():
            load_into(weight, stored[name])
    else:
        set_peft_model_state_dict(model, {name: tensor.read() for name, tensor in stored.items()})


def _stored_weights(model: Any, folder: Path) -> dict[str, StoredTensor]:
    """Return the trained weights of a checkpoint by name."""
    if (folder / f"{SHARDED_WEIGHTS}.json").is_file():
        weights: dict[str, StoredTensor] = open_tree(folder, SHARDED_WEIGHTS)
        return weights
    paths = [folder / ADAPTER_WEIGHTS] if isinstance(model, PeftModel) else sorted(folder.glob("model*.safetensors"))
    return {name: StoredTensor([path], name) for path in paths for name in tensor_names(path)}


def save_sharded_weights(model: Any, folder: Path, ranks: Ranks) -> None:
    """Write the trained weights of a sharded model to a checkpoint. All ranks call this.

    An adapter, which is small, is gathered on every rank and written as PEFT writes it. Of a fully trained model, each
    rank writes its rows.
    """
    if not isinstance(model, PeftModel):
        save_tree(folder, SHARDED_WEIGHTS, dict(model.named_parameters()), ranks.number)
        return
    state = model.state_dict()
    adapter = {id(weight) for weight in get_peft_model_state_dict(model, state_dict=state).values()}
    trained = {name: weight.full_tensor() for name, weight in state.items() if id(weight) in adapter}
    if ranks.is_first:
        model.save_pretrained(folder, state_dict=trained)


def save_adapter(checkpoint: Path, out: Path, base: Path) -> None:
    """Write a PEFT folder from a checkpoint. Equal weights give equal bytes; no path of this machine is written."""
    shutil.copyfile(checkpoint / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
    config = json.loads((checkpoint / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = f"base_model:{base.name}"
    if config.get("tokenizer_name_or_path"):
        config["tokenizer_name_or_path"] = config["base_model_name_or_path"]
    for key in ("target_modules", "target_parameters"):
        if isinstance(config.get(key), list):
            config[key].sort()  # PEFT keeps a set, whose order changes from process to process
    text = json.dumps(config, indent=2, sort_keys=True)
    (out / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


def save_full(model: Any, out: Path, base: Path) -> None:
    """Write a fully trained model in the 16-bit type of its base, with the base's tokenizer and template."""
    model.to(storage_dtype(base)).save_pretrained(out)
    copy_companions(base, out)


def copy_companions(base: Path, out: Path) -> None:
    """Copy all files except weights and config.json, so that the new model reads and writes text as the base does."""
    not_copied = ("config.json", "manifest.json", ORIGIN_FILE)
    for path in base.iterdir():
        if path.is_file() and path.name not in not_copied and ".safetensors" not in path.name:
            shutil.copyfile(path, out / path.name)
