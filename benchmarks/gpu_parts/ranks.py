"""The part `two GPUs`: two processes must train as one does, with whole weights (DDP) and with shared ones (FSDP2)."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml
from gpu_parts.bench import ROOT, Bench, Findings, Skipped, visible_gpus
from gpu_parts.losses import TOLERANCES, Comparison, compare_losses, hold
from gpu_parts.material import experiment
from gpu_parts.trainings import DTYPE_VARIABLE, MEASURES

FSDP = ROOT / "deploy" / "accelerate" / "fsdp.yaml"
_RUNS: dict[str, tuple[str, bool]] = {
    "DDP, lora": ("lora", False),
    "DDP, qlora": ("qlora", False),
    "DDP, full": ("full", False),
    "FSDP2, lora": ("lora", True),
    "FSDP2, full": ("full", True),
}
"""Name → technique, and whether the weights are shared."""


def measure(bench: Bench) -> Findings:
    """Train with one process and with two, in the device's own type, and compare the losses."""
    if bench.device == "cuda" and len(visible_gpus()) < 2:
        raise Skipped("this machine shows one GPU")
    findings = Findings()
    base, data = bench.model("small"), bench.folder("material")
    bench.run("material", {"objective": "sft", "base": base, "folder": data})
    plain = Comparison(bench, findings, "sft", base, f"{data}/data")
    techniques = ("lora", "qlora", "full")

    def item(name: str, technique: str) -> dict[str, Any]:
        variant = {"technique": technique}
        made = plain.item(name, bench.torch_device, "auto", variant)
        return {**made, "experiment": experiment("sft", variant, optim="adamw_torch")}

    alone = bench.run_each("training", [item(technique, technique) for technique in techniques])
    by_technique = dict(zip(techniques, alone, strict=True))
    items = [
        {**item(name.replace(" ", ""), technique), "sharded": sharded} for name, (technique, sharded) in _RUNS.items()
    ]
    outcomes = bench.run_each("ranks", items, gpus=2)
    for (name, (technique, _)), outcome in zip(_RUNS.items(), outcomes, strict=True):
        reference = findings.taken(f"{technique} in one process", by_technique[technique])
        measured = findings.taken(name, outcome)
        if not reference or not measured:
            continue
        hold(findings, name, compare_losses(reference, measured), TOLERANCES[measured["computed_in"]])
        findings.row(
            "two processes",
            training=name,
            last_loss=measured["loss"][-1],
            alone=reference["loss"][-1],
            peak_gb=measured["peak_memory_gb"],
            peak_alone_gb=reference["peak_memory_gb"],
        )
    return findings


def train(item: dict[str, Any]) -> dict[str, Any]:
    """Train in two processes, as `ft run` starts them; what trainings.train returns."""
    from gpu_parts.material import validated

    from ft_pipeline.execution.workers.accelerate_config import ACCELERATE_CONFIG, NUM_PROCESSES
    from ft_pipeline.execution.workers.launchers import AccelerateLauncher
    from ft_pipeline.execution.workers.supervisor import WorkerJob, run_worker

    folder = Path(item["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    out, work = folder / "out", folder / "work"
    for path in (out, work):
        path.mkdir(parents=True)
    os.environ[DTYPE_VARIABLE] = item["dtype"]
    os.environ.update(_variables(item, folder, ACCELERATE_CONFIG, NUM_PROCESSES))
    config = {"experiment": validated(item["experiment"]).model_dump(mode="json")}
    inputs = {"training_data": Path(item["data"]), "base_model": Path(item["base"])}
    job = WorkerJob("adapter", "adapter", config, inputs, folder, out, work, device=item["device"])
    summary = run_worker(None, job, AccelerateLauncher()).summary
    if summary["processes"] != 2:
        raise RuntimeError(f"{summary['processes']} processes trained, not 2")
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        **{name: [entry[name] for entry in history if name in entry] for name in MEASURES},
        **{name: summary[name] for name in ("tokens_per_second", "peak_memory_gb", "computed_in")},
    }


def _variables(item: dict[str, Any], folder: Path, config: str, count: str) -> dict[str, str]:
    """The environment of the launcher. The shipped file is used as it is; both variables are set in each run."""
    if not item["sharded"]:
        return {config: "", count: "2"}
    assert yaml.safe_load(FSDP.read_text(encoding="utf-8"))["num_processes"] == 2
    return {config: str(FSDP), count: ""}
