"""The part `fast paths`: options that make a step faster or smaller must not change what it learns."""

from dataclasses import replace
from typing import Any

from gpu_parts.bench import Bench, Findings
from gpu_parts.losses import TOLERANCES, Comparison, compare_losses, hold
from gpu_parts.material import experiment

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "padding_free (variable-length attention)": ({"technique": "lora"}, {"padding_free": True}),
    "padding_free, qlora": ({"technique": "qlora"}, {"padding_free": True}),
    "gradient_checkpointing": ({"technique": "lora"}, {"gradient_checkpointing": True}),
    "use_liger_kernel": ({"technique": "lora"}, {"use_liger_kernel": True}),
    "flash_attention_2": ({"technique": "lora"}, {"attn_implementation": "flash_attention_2"}),
    "flash_attention_3": ({"technique": "lora"}, {"attn_implementation": "flash_attention_3"}),
    "flex_attention": ({"technique": "lora"}, {"attn_implementation": "flex_attention"}),
    "eager attention": ({"technique": "lora"}, {"attn_implementation": "eager"}),
    "torch_compile": ({"technique": "lora"}, {"torch_compile": True}),
    "pure_bf16": ({"technique": "full"}, {"pure_bf16": True}),
    "adamw_torch": ({"technique": "lora"}, {"optim": "adamw_torch"}),
}
"""Option → the technique, and its settings of `training`."""

_LEARNED_WITH_RANDOM_ROUNDING = 0.5
"""`pure_bf16` rounds each update at random. In a few steps, what it learned differs by a fifth on a CPU."""


def measure(bench: Bench) -> Findings:
    """Train with each option and without it, in the device's own type."""
    findings = Findings()
    base, data = bench.model("small"), bench.folder("material")
    bench.run("material", {"objective": "sft", "base": base, "folder": data})
    plain = Comparison(bench, findings, "sft", base, f"{data}/data")
    techniques = ("lora", "qlora", "full")
    dtype = bench.device_dtypes[1]
    plainly = {"padding_free": False}

    def item(name: str, variant: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
        made = plain.item(name, bench.torch_device, dtype, variant)
        return {**made, "experiment": experiment("sft", variant, **{**plainly, **training}), "may_be_missing": True}

    references = bench.run_each("training", [item(name, {"technique": name}, {}) for name in techniques])
    by_technique = dict(zip(techniques, references, strict=True))
    items = [item(name, variant, training) for name, (variant, training) in OPTIONS.items()]
    for (name, (variant, _)), outcome in zip(OPTIONS.items(), bench.run_each("training", items), strict=True):
        reference = findings.taken(f"{variant['technique']} without options", by_technique[variant["technique"]])
        measured = findings.taken(name, outcome)
        if not reference or not measured:
            continue
        tolerance = TOLERANCES[measured["computed_in"]]
        if name == "pure_bf16":
            tolerance = replace(tolerance, learned=_LEARNED_WITH_RANDOM_ROUNDING)
        hold(findings, name, compare_losses(reference, measured), tolerance)
        findings.row(
            "options, small model",
            option=name,
            last_loss=measured["loss"][-1],
            without=reference["loss"][-1],
            peak_gb=measured["peak_memory_gb"],
            peak_without_gb=reference["peak_memory_gb"],
        )
    return findings
