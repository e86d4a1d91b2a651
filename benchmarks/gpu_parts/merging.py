"""Parts on models that are trained, merged and asked on the device: the merge against that of the CPU, and answers."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from gpu_parts.bench import Bench, Findings
from gpu_parts.losses import VARIANTS, Comparison
from gpu_parts.material import experiment
from gpu_parts.trainings import DTYPE_VARIABLE

_KL_LIMIT = 1e-3
"""KL in nats per token between the model merged on the device and the one merged on the CPU."""
_CHANGED_LIMIT = 0.01
"""Share of merged weights that may differ by more than a rounding: devices may round a weight to other NF4 values."""
_SAME_ANSWERS = 0.9
"""Share of answers that must be the same on both devices in float32."""
_KINDS = ("lora", "qlora", "dora", "qdora")
_QUESTIONS, _TOKENS = 16, 24


def measure(bench: Bench) -> Findings:
    """The part `merge`."""
    return _measure(bench, "small", _KINDS)


def measure_embedded(bench: Bench) -> Findings:
    """The part `embedded`: losses, merge and answers of a trained model, which is not tiny: in a trial, once each."""
    kinds, techniques = (("qlora",), ("lora",)) if bench.is_tiny else (("lora", "qlora"), ("lora", "qlora", "full"))
    findings = _measure(bench, "embedded", kinds)
    data = bench.folder("material/data")
    compared = Comparison(bench, findings, "sft", bench.model("embedded"), data)
    compared.run({name: VARIANTS[name] for name in techniques})
    return findings


def _measure(bench: Bench, model: str, kinds: tuple[str, ...]) -> Findings:
    findings = Findings()
    base, data = bench.model(model), bench.folder("material")
    bench.run("material", {"objective": "sft", "base": base, "folder": data})
    items = [
        {
            "experiment": experiment("sft", VARIANTS[kind], num_train_epochs=1 if bench.is_tiny else 2),
            "base": base,
            "data": f"{data}/data",
            "device": bench.torch_device,
            "folder": bench.folder(kind),
        }
        for kind in kinds
    ]
    for kind, outcome in zip(kinds, bench.run_each("merge", items), strict=True):
        label = f"{model}, {kind}"
        if (result := findings.taken(label, outcome)) is None:
            continue
        findings.check(f"{label}: KL(adapter || merged)", result["kl_adapter_merged"], result["max_kl"])
        findings.check(f"{label}: KL(merged on the CPU || merged here)", result["kl_devices"], _KL_LIMIT)
        findings.check(f"{label}: weights that differ from the CPU's", result["changed_weights"], _CHANGED_LIMIT)
        findings.check(f"{label}: same answers as the CPU", result["same_answers"], _SAME_ANSWERS, at_least=True)
        shown = {name: value for name, value in result.items() if isinstance(value, (int, float))}
        findings.row("merged models", model=label, **shown)
    return findings


def merge_and_compare(item: dict[str, Any]) -> dict[str, Any]:
    """Train on the device, merge there and on the CPU, and compare the two merged models and their answers."""
    from embedded import Silent
    from gpu_parts.trainings import train

    from ft_pipeline.job import Job
    from ft_pipeline.steps import merged_model

    folder, device = Path(item["folder"]), item["device"]
    trained = train({**item, "dtype": "auto", "folder": str(folder / "training")})
    inputs = {
        "adapter": Path(trained["adapter"]),
        "base_model": Path(item["base"]),
        "training_data": Path(item["data"]),
    }
    merged: dict[str, Path] = {}
    summaries: dict[str, dict[str, Any]] = {}
    for name, where in (("device", device), ("cpu", "cpu")):
        # In float32, so that only the devices differ; the stored weights have 16 bit either way.
        os.environ[DTYPE_VARIABLE] = "auto" if name == "device" else "float32"
        out, work = folder / f"merged_{name}", folder / f"work_{name}"
        for path in (out, work):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        job = Job("merged_model", {"experiment": _settings(item)}, inputs, out, work, where, Silent())
        summaries[name] = merged_model.run(job)
        merged[name] = out
        shutil.rmtree(work)
    summary = summaries["device"]
    return {
        **{name: summary[name] for name in ("kl_adapter_merged", "max_kl", "adapter_heldout_loss")},
        "kl_adapter_merged_cpu": summaries["cpu"]["kl_adapter_merged"],
        **_compare_weights(merged["cpu"], merged["device"]),
        **_compare_predictions(merged["cpu"], merged["device"], Path(item["data"]), device),
        **compare_answers(merged["device"], device),
    }


def _settings(item: dict[str, Any]) -> dict[str, Any]:
    from gpu_parts.material import validated

    settings: dict[str, Any] = validated(item["experiment"]).model_dump(mode="json")
    return settings


def _compare_weights(expected: Path, found: Path) -> dict[str, float]:
    """The share of weights that differ by more than two roundings to bf16, and the largest difference."""
    from safetensors.torch import load_file

    changed = total = 0
    largest = 0.0
    for path in sorted(expected.glob("*.safetensors")):
        ours, theirs = load_file(found / path.name), load_file(path)
        for name, weight in theirs.items():
            difference = (ours[name].float() - weight.float()).abs()
            changed += int((difference > 2**-7 * weight.float().abs() + 1e-6).sum())
            total += weight.numel()
            largest = max(largest, float(difference.max()))
    return {"changed_weights": changed / total, "largest_difference": largest}


def _compare_predictions(expected: Path, found: Path, data: Path, device: str) -> dict[str, float]:
    """KL of two folders in float32, both on the device."""
    from ft_pipeline.models.load import load_model, load_tokenizer
    from ft_pipeline.training.merging.equivalence import HeldOutRows, kl_divergence
    from ft_pipeline.training.token_rows import read_split

    os.environ[DTYPE_VARIABLE] = "float32"
    held_out = HeldOutRows(read_split(data, "validation"), load_tokenizer(expected).pad_token_id)
    first, second = (held_out.load_and_measure(partial(load_model, folder, device)) for folder in (expected, found))
    return {"kl_devices": kl_divergence(first, second)}


def compare_answers(folder: Path, device: str) -> dict[str, float]:
    """The share of greedy answers in float32 that are the same on the device and on the CPU."""
    answers = {where: _answers(folder, where) for where in ("cpu", device)}
    pairs = list(zip(answers["cpu"], answers[device], strict=True))
    return {"same_answers": sum(one == other for one, other in pairs) / len(pairs)}


def _answers(folder: Path, device: str) -> list[str]:
    from embedded import read_rows, shipped_files

    from ft_pipeline.models.chat import render
    from ft_pipeline.models.cpu.fast_linear import speed_up_products
    from ft_pipeline.models.decoding.generate import generate
    from ft_pipeline.models.load import load_model, load_tokenizer

    os.environ[DTYPE_VARIABLE] = "float32"
    tokenizer, model = load_tokenizer(folder), load_model(folder, device)
    speed_up_products(model, trains=False)
    questions = [row[:1] for row in read_rows(shipped_files(), _QUESTIONS)]
    prompts = [render(tokenizer, question, add_generation_prompt=True) for question in questions]
    return [answer.raw for answer in generate(model, tokenizer, prompts, max_new_tokens=_TOKENS, batch_size=8)]
