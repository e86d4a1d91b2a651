"""Parts on speed and memory of a large model, against TRL and Unsloth."""

from collections.abc import Callable
from typing import Any

from gpu_parts.bench import Bench, Findings

OURS, LIKE_FOR_LIKE = "ours", "TRL like for like"
SFT = (
    OURS,
    LIKE_FOR_LIKE,
    "TRL's defaults",
    "Unsloth",
    "ours, padding_free",
    "ours, use_liger_kernel",
    "ours, torch_compile",
    "ours, gradient_checkpointing",
)
DPO = ("ours, dpo", "TRL, dpo", "TRL, dpo, precomputed reference")
GRPO = ("ours, grpo", "TRL, grpo")
_FIRST_LOSS = 3e-3
"""How far the first losses of ours and of TRL like for like may differ, as a share: they are those of the same rows."""
_SIZES: dict[str, dict[str, int]] = {
    "full": {"rows": 240, "batch": 8, "longest": 768, "warmup": 5},
    "tiny": {"rows": 8, "batch": 2, "longest": 48, "warmup": 1},
}
_GRPO_SIZES: dict[str, dict[str, int]] = {
    "full": {"rows": 32, "batch": 4, "longest": 256, "warmup": 2, "answers": 8, "new_tokens": 64},
    "tiny": {"rows": 4, "batch": 2, "longest": 48, "warmup": 1, "answers": 2, "new_tokens": 4},
}


def measure_sft(technique: str) -> Callable[[Bench], Findings]:
    """The part of one technique with sft."""

    def measure(bench: Bench) -> Findings:
        findings = Findings()
        results = _run(bench, findings, technique, SFT, _SIZES[bench.scale])
        if OURS in results and LIKE_FOR_LIKE in results:
            ours, theirs = (results[name]["first_loss"] for name in (OURS, LIKE_FOR_LIKE))
            findings.check(f"{technique}: first loss as TRL's", abs(ours / theirs - 1), _FIRST_LOSS)
        return findings

    return measure


def measure_pairs_and_answers(bench: Bench) -> Findings:
    """The part of dpo and grpo with LoRA."""
    findings = Findings()
    _run(bench, findings, "lora", DPO, _SIZES[bench.scale])
    _run(bench, findings, "lora", GRPO, _GRPO_SIZES[bench.scale])
    return findings


def _run(
    bench: Bench, findings: Findings, technique: str, names: tuple[str, ...], sizes: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """Run the contenders, each in its own process unless it is a trial. Only ours must succeed; an error of another is
    shown."""
    items = [
        {
            "contender": name,
            "technique": technique,
            "base": bench.model("llama_1b"),
            "device": bench.torch_device,
            **sizes,
        }
        for name in names
    ]
    results: dict[str, dict[str, Any]] = {}
    for name, outcome in zip(names, bench.run_each("speed", items, alone=not bench.is_tiny), strict=True):
        if "error" in outcome and not name.startswith(OURS):
            findings.skipped[name] = f"it failed: {outcome['error']}"
        elif result := findings.taken(name, outcome):
            results[name] = result
    reference = results.get(LIKE_FOR_LIKE) or results.get(names[1])
    for name, result in results.items():
        times = result["tokens_per_second"] / reference["tokens_per_second"] if reference else None
        findings.row("speed", technique=technique, contender=name, times_trl=times, **result)
    return results
