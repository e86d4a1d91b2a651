"""Load a model folder on a device: in the machine's compute type or NF4, with or without an adapter."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from ft_pipeline.errors import UserError
from ft_pipeline.models.compute_dtype import compute_dtype

disable_progress_bar()  # the job reports its own progress; bars in a log file are noise


def load_model(
    folder: Path,
    device: str,
    *,
    quantization: dict[str, Any] | None = None,
    adapter: Path | None = None,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
) -> Any:
    """Load the causal LM of `folder` on `device`, in `dtype` (None: the compute type), in eval mode. Loading is offline
    and does not run code from the folder.

    `quantization` has BitsAndBytesConfig's 4-bit keys (QuantizationSettings.model_dump()); embeddings and head keep the
    compute type. `adapter` is a PEFT folder that is loaded on top, unmerged, in 32 bit. `attention` is transformers'
    attn_implementation; None for the model's default.
    """
    dtype = dtype or compute_dtype(device)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        quantization_config=four_bit_config(quantization, dtype),
        attn_implementation=attention,
    )
    if adapter is not None:
        from peft import PeftModel

        from ft_pipeline.models.adapter_precision import compute_in_base_dtype

        if not (adapter / "adapter_model.safetensors").is_file():  # PEFT would then look for a pickle
            raise UserError(f"{adapter.name} contains no adapter_model.safetensors. Train the adapter again.")
        # Without torch_device, PEFT would load the weights through a Mac's GPU.
        model = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=True, torch_device=device)
        compute_in_base_dtype(model)
    return model.eval()


def keep_weights_unpacked(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for CPU inference. Call it before training and dequantizing.

    On CPUs with AVX-512 bf16 the first forward pass in eval mode moves the weights into a layout whose kernel has no
    backward pass. After a held-out loss during training, the gradient would silently be lost, and `dequantize()` would
    read the new layout as the old one.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of `folder`, with a pad token that the model has an embedding for: its own, the stop token,
    or another control token. (Any is safe, because padding is masked by position.) UserError if there is no such
    token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    preferred = (tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
    vocabulary_size = _vocabulary_size(folder)
    for token in (*preferred, *sorted(tokenizer.all_special_tokens)):
        if token is not None and (vocabulary_size is None or tokenizer.convert_tokens_to_ids(token) < vocabulary_size):
            if token != tokenizer.pad_token:
                tokenizer.pad_token = token
            return tokenizer
    raise UserError(
        f"The tokenizer of {folder.name} has no control token in the model's vocabulary. Set eos_token in its "
        "tokenizer_config.json."
    )


def _vocabulary_size(folder: Path) -> int | None:
    """Return how many tokens the model of `folder` has an embedding for; None if its config.json does not say."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    size: int | None = config.get("text_config", config).get("vocab_size")
    return size


def four_bit_config(quantization: dict[str, Any] | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the configuration of 4-bit weights that compute in `dtype`; None without `quantization`."""
    if quantization is None:
        return None
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, **quantization)
