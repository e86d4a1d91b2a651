"""The memory estimate held against what training took: predicted and measured peak of nine configurations.

    python benchmarks/memory.py [--only NAME ...]

Each configuration trains SmolLM2-135M for two steps on rows of one length in a separate process. Measured: on a CPU
the peak of the resident set above its level after the imports, on a GPU `max_memory_allocated` (which knows nothing of
the CUDA context). FT_COMPUTE_DTYPE chooses the compute type. Results: benchmarks/results/memory.json.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
from embedded import convert_base
from own_trainer import new_trainer

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "memory.json"
STEPS = 2
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "qlora 8x256": {"technique": "qlora", "batch": 8, "length": 256},
    "qlora 4x1024 checkpointed": {"technique": "qlora", "batch": 4, "length": 1024, "checkpointing": True},
    "qlora 4x256 all-linear r64": {"technique": "qlora", "batch": 4, "length": 256, "targets": "all-linear", "r": 64},
    "lora 8x256": {"technique": "lora", "batch": 8, "length": 256},
    "lora 2x512 all-linear": {"technique": "lora", "batch": 2, "length": 512, "targets": "all-linear"},
    "full 4x256 adamw_torch": {"technique": "full", "batch": 4, "length": 256, "optim": "adamw_torch"},
    "full 4x256 adamw_8bit": {"technique": "full", "batch": 4, "length": 256, "optim": "adamw_8bit"},
    "full 2x512 checkpointed": {
        "technique": "full",
        "batch": 2,
        "length": 512,
        "optim": "adamw_torch",
        "checkpointing": True,
    },
    "prompt_tuning 8x256": {"technique": "prompt_tuning", "batch": 8, "length": 256},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=sorted(CONFIGURATIONS), help="Print these, write no results.")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        device = "cuda" if _has_gpu() else "cpu"
        print(json.dumps(measure(CONFIGURATIONS[arguments.measure], Path(arguments.base), device)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = convert_base(Path(scratch))
        rows = [_compare(name, base) for name in arguments.only or CONFIGURATIONS]
    if not arguments.only:
        document = {"machine": machine.describe_compute(), "model": "SmolLM2-135M", "rows": rows}
        RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _compare(name: str, base: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", name, "--base", str(base)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    measured = json.loads(output.strip().splitlines()[-1])
    predicted = predict(CONFIGURATIONS[name], base, measured["dtype"], measured["device"])
    off = predicted["tensors_gb"] / measured["peak_gb"] - 1
    parts = " ".join(f"{part} {size / 1e9:.2f}" for part, size in predicted["bytes"].items())
    print(f"{name:28} predicted {predicted['tensors_gb']:.2f} measured {measured['peak_gb']:.2f} {off:+.0%} ({parts})")
    return {"name": name, **measured, "predicted_gb": predicted["tensors_gb"], "off": off, "bytes": predicted["bytes"]}


def _settings(configuration: dict[str, Any]) -> Any:
    from ft_pipeline.settings.experiment import ExperimentSettings
    from ft_pipeline.settings.training import ATTENTION

    technique = configuration["technique"]
    training = {
        "learning_rate": 5e-5,
        "max_steps": STEPS,
        "per_device_train_batch_size": configuration["batch"],
        "gradient_checkpointing": configuration.get("checkpointing", False),
        "optim": configuration.get("optim", "adamw_8bit"),
        "pure_bf16": configuration.get("pure_bf16", False),
    }
    settings: dict[str, Any] = {"technique": technique, "training": training}
    if technique in ("lora", "qlora"):
        settings["lora"] = {
            "target_modules": configuration.get("targets", [*ATTENTION]),
            "r": configuration.get("r", 8),
        }
    return ExperimentSettings.model_validate(settings)


def predict(configuration: dict[str, Any], base: Path, dtype: str, device: str) -> dict[str, Any]:
    """The estimate, with `tensors_gb`: what `measure` sees of it. `max_memory_allocated` does not see the CUDA context
    and what the allocator cannot use."""
    from ft_pipeline.training.memory.estimate import estimate_experiment
    from ft_pipeline.training.memory.parts import _RUNTIME_BYTES

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    kind = "cpu" if device == "cpu" else "cuda"
    estimate = estimate_experiment(
        _settings(configuration), config, configuration["length"], None, device=kind, dtype=dtype
    )
    unseen = _RUNTIME_BYTES["cuda"] if kind == "cuda" else 0
    return {**estimate, "tensors_gb": estimate["total_gb"] - unseen / 1e9}


def measure(configuration: dict[str, Any], base: Path, device: str) -> dict[str, Any]:
    """The peak of a training of two steps on `device`, `cpu` or a GPU."""
    import bitsandbytes  # noqa: F401 - an import too, and not a small one
    import torch

    import ft_pipeline.training.adapter  # noqa: F401 - all that a training imports
    from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name

    dtype = compute_dtype(device)
    settings = _settings(configuration)
    rows = _rows(base, configuration["length"])
    before = resident_gb("VmRSS")
    with tempfile.TemporaryDirectory() as scratch:
        trainer = new_trainer(base, settings, rows, Path(scratch), device)
        if device == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        trainer.train()
    peak = torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else resident_gb("VmHWM") - before
    return {"device": device, "dtype": dtype_name(dtype), "peak_gb": peak}


def _rows(base: Path, length: int) -> list[dict[str, Any]]:
    vocabulary = json.loads((base / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    draw = random.Random(0)
    ids = [
        [draw.randrange(min(100, vocabulary // 2), min(40_000, vocabulary)) for _ in range(length)] for _ in range(64)
    ]
    return [{"input_ids": row, "labels": [-100] * (len(row) // 2) + row[len(row) // 2 :]} for row in ids]


def resident_gb(field: str) -> float:
    """Gigabytes (10⁹) of this process, from Linux's /proc."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
