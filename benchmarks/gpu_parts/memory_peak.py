"""The part `memory`: the estimate against the peak of a training of a large model (benchmarks/memory.py)."""

from pathlib import Path
from typing import Any

import memory
from gpu_parts.bench import Bench, Findings

_FULL: dict[str, dict[str, Any]] = {
    "lora 8x512": {"technique": "lora", "batch": 8, "length": 512, "targets": "all-linear"},
    "qlora 8x512": {"technique": "qlora", "batch": 8, "length": 512, "targets": "all-linear"},
    "qlora 4x2048 checkpointed": {
        "technique": "qlora", "batch": 4, "length": 2048, "targets": "all-linear", "checkpointing": True,
    },
    "lora 4x1024 attention r64": {"technique": "lora", "batch": 4, "length": 1024, "r": 64},
    "prompt_tuning 8x512": {"technique": "prompt_tuning", "batch": 8, "length": 512},
    "full 2x512 adamw_torch": {"technique": "full", "batch": 2, "length": 512, "optim": "adamw_torch"},
    "full 4x512 paged_adamw_8bit": {"technique": "full", "batch": 4, "length": 512, "optim": "paged_adamw_8bit"},
    "full 4x512 pure_bf16": {"technique": "full", "batch": 4, "length": 512, "pure_bf16": True},
}  # fmt: skip
_TINY = {
    "lora 2x64": {"technique": "lora", "batch": 2, "length": 64},
    "full 2x64": {"technique": "full", "batch": 2, "length": 64, "optim": "adamw_torch"},
}
_LIMIT = 0.15
"""Largest share by which the estimate may be off. It is for models of some size: libraries alone exceed a tiny one."""


def measure_part(bench: Bench) -> Findings:
    """Predict and measure each configuration."""
    findings = Findings()
    configurations = _TINY if bench.is_tiny else _FULL
    wanted = [(model, name) for model in ("llama_1b", "qwen_1b") for name in configurations]
    if not bench.is_tiny:
        wanted = [
            (model, name) for model, name in wanted if model == "llama_1b" or name in ("lora 8x512", "qlora 8x512")
        ]
    items = [
        {"base": bench.model(model), **configurations[name], "device": bench.torch_device} for model, name in wanted
    ]
    for (model, name), outcome in zip(wanted, bench.run_each("memory", items, alone=True), strict=True):
        label = f"{model}, {name}"
        if (result := findings.taken(label, outcome)) is None:
            continue
        off = result["predicted_gb"] / result["peak_gb"] - 1
        if not bench.is_tiny:
            findings.check(f"{label}: estimate off by", abs(off), _LIMIT)
        findings.row("memory", training=label, off=off, **result)
    return findings


def measure(item: dict[str, Any]) -> dict[str, Any]:
    """Predicted and measured gigabytes of one configuration.

    On a GPU also what the driver shows as used (context, allocator and tensors), which the total estimate is for.
    """
    import torch

    base = Path(item["base"])
    device = item["device"]
    measured = memory.measure(item, base, device)
    predicted = memory.predict(item, base, measured["dtype"], device)
    result = {"predicted_gb": predicted["tensors_gb"], "peak_gb": measured["peak_gb"], "computed_in": measured["dtype"]}
    if device != "cpu":
        free, total = torch.cuda.mem_get_info()
        result |= {"estimate_gb": predicted["total_gb"], "used_on_gpu_gb": (total - free) / 1e9}
    return result
