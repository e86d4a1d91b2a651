"""The part `scoring`: losses and answers by lm-eval tasks on the device, ours against plain lm-eval."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_parts.bench import Bench, Findings
from gpu_parts.trainings import DTYPE_VARIABLE

_LOSS_LIMIT = 0.03
"""How far the summed log likelihoods of ours and of lm-eval may differ, as a share: lm-eval rounds each to 16 bit."""


def measure_part(bench: Bench) -> Findings:
    """Score items with a large model, and with the embedded one if it is there."""
    findings = Findings()
    models = ["llama_1b", *(["embedded"] if bench.has_model("embedded") else [])]
    sizes = {"items": 2, "batch": 2} if bench.is_tiny else {"items": 96, "batch": 32}
    items = [{"base": bench.model(name), "device": bench.torch_device, **sizes} for name in models]
    for name, outcome in zip(models, bench.run_each("scoring", items), strict=True):
        if (result := findings.taken(name, outcome)) is None:
            continue
        for prompt, numbers in result.items():
            off = abs(numbers["log_likelihood"] / numbers["log_likelihood_of_lm_eval"] - 1)
            findings.check(f"{name}, {prompt}: log likelihood as lm-eval's", off, _LOSS_LIMIT)
            findings.row("scoring", model=name, prompt=prompt, **numbers)
    return findings


def measure(item: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds, items per second and summed log likelihoods by prompt, for ours and for plain lm-eval."""
    import evaluation
    from lm_eval.models.huggingface import HFLM

    from ft_pipeline.evaluation.scoring.lm_eval_harness import run_tasks
    from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM
    from ft_pipeline.evaluation.scoring.prompts import Prompt
    from ft_pipeline.models.load import load_model, load_tokenizer

    os.environ[DTYPE_VARIABLE] = "auto"
    base, batch = Path(item["base"]), item["batch"]
    model, tokenizer = load_model(base, item["device"]), load_tokenizer(base)
    turns = evaluation.read_turns(item["items"] + evaluation.SHOTS)
    prompts = {"plain": Prompt(), "with examples": Prompt(examples=tuple(turns[: evaluation.SHOTS]))}
    makers = {
        "ours": lambda: LoadedLM(model, tokenizer, batch, lambda done: None),
        "lm-eval": lambda: HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch),
    }
    results: dict[str, dict[str, float]] = {}
    for label, prompt in prompts.items():
        tasks = evaluation.build_tasks(tokenizer, prompt, turns[evaluation.SHOTS :])
        seconds, likelihoods = {}, {}
        for name, make in makers.items():
            with tempfile.TemporaryDirectory() as scratch:
                started = time.monotonic()
                samples = run_tasks(make(), tasks, Path(scratch))
                seconds[name] = time.monotonic() - started
            likelihoods[name] = sum(sample["resps"][0][0][0] for sample in samples[tasks[0].name])
        results[label] = {
            "seconds": seconds["ours"],
            "seconds_of_lm_eval": seconds["lm-eval"],
            "items_per_second": item["items"] / seconds["ours"],
            "log_likelihood": likelihoods["ours"],
            "log_likelihood_of_lm_eval": likelihoods["lm-eval"],
        }
    return results
