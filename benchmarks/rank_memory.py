"""The memory of each rank when two train together over gloo: with the whole model (DDP), and with shards (FSDP2).

    python benchmarks/rank_memory.py [--layers 12]

The model is a random Llama, 1,024 wide. Each process first loads the model, then trains two steps on 8 rows of 128
tokens. Measured: the peak of the resident set above its level after the imports, until the model is loaded and until
the end. Results: benchmarks/results/rank_memory.json.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
from memory import ROOT, STEPS, resident_gb

RESULTS = ROOT / "benchmarks" / "results" / "rank_memory.json"
MODES = {"one process": (1, False), "two, DDP": (2, False), "two, FSDP2": (2, True)}
TECHNIQUES = ("lora", "qlora", "full")
ROWS, LENGTH = 8, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        _measure(*arguments.measure)
        return
    with tempfile.TemporaryDirectory() as scratch:
        base, params = _random_model(Path(scratch) / "base", arguments.layers)
        rows = [_compare(technique, mode, base, Path(scratch)) for technique in TECHNIQUES for mode in MODES]
    document = {"machine": machine.describe_compute(), "params": params, "rows": rows}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _random_model(folder: Path, layers: int) -> tuple[Path, int]:
    """Save a random Llama in bf16 with a tokenizer. Return its folder and its number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ft_pipeline_tests.tiny import tiny_tokenizer

    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": layers, "num_attention_heads": 16}
    config = LlamaConfig(**sizes, num_key_value_heads=16, vocab_size=8192, dtype=torch.bfloat16)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder, sum(parameter.numel() for parameter in model.parameters())


def _compare(technique: str, mode: str, base: Path, scratch: Path) -> dict[str, Any]:
    from ft_pipeline.execution.workers.accelerate_config import Processes
    from ft_pipeline.execution.workers.rank_launcher import rank_environment

    count, sharded = MODES[mode]
    processes = Processes(count, sharded)
    command = [sys.executable, __file__, "--measure", technique, str(base)]
    meeting = scratch / f"{technique}-{mode}"
    ranks = [
        subprocess.Popen(
            [*command, str(meeting.with_suffix(f".{number}"))],
            env=rank_environment(os.environ, processes, number, meeting),
        )
        for number in range(count)
    ]
    assert [rank.wait() for rank in ranks] == [0] * count
    measured = [json.loads(meeting.with_suffix(f".{number}").read_text()) for number in range(count)]
    predicted = _predict(technique, base, count, sharded, measured[0]["dtype"])
    worst = {name: max(rank[name] for rank in measured) for name in ("loaded_gb", "peak_gb")}
    print(f"{technique:6} {mode:12} {worst} predicted {predicted:.2f}", flush=True)
    return {"technique": technique, "mode": mode, **worst, "predicted_gb": predicted, "dtype": measured[0]["dtype"]}


def _settings(technique: str) -> Any:
    from ft_pipeline.settings.experiment import ExperimentSettings

    training = {"learning_rate": 5e-5, "max_steps": STEPS, "per_device_train_batch_size": ROWS, "optim": "adamw_torch"}
    return ExperimentSettings.model_validate({"technique": technique, "training": training})


def _predict(technique: str, base: Path, count: int, sharded: bool, dtype: str) -> float:
    from ft_pipeline.training.memory.estimate import estimate_experiment
    from ft_pipeline.training.memory.rank_share import RankCount

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    ranks = RankCount(count, sharded)
    estimate = estimate_experiment(_settings(technique), config, LENGTH, None, "cpu", dtype=dtype, ranks=ranks)
    total: float = estimate["total_gb"]
    return total


def _measure(technique: str, base: str, result: str) -> None:
    """Train as one rank of those in the environment, and write what it took to the file `result`."""
    import bitsandbytes  # noqa: F401 - an import too, and not a small one

    from ft_pipeline.execution.workers.worker import own_rank
    from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name
    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.training.techniques import new_model, new_sharded_model
    from ft_pipeline.training.trainer.acceleration import speed_up
    from ft_pipeline.training.trainer.arguments import training_arguments
    from ft_pipeline.training.trainer.data_parallel import join_ranks
    from ft_pipeline.training.trainer.token_trainer import TokenTrainer

    settings, folder = _settings(technique), Path(base)
    draw = random.Random(0)
    ids = [[draw.randrange(100, 500) for _ in range(LENGTH)] for _ in range(4 * ROWS)]
    rows = [{"input_ids": row, "labels": [-100] * (LENGTH // 2) + row[LENGTH // 2 :]} for row in ids]
    with join_ranks(own_rank(), "cpu") as ranks, tempfile.TemporaryDirectory() as scratch:
        before = resident_gb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        if ranks.sharded:
            model = new_sharded_model(folder, settings, "cpu", ranks)
        else:
            model = new_model(folder, settings, "cpu")
        loaded = resident_gb("VmHWM") - before
        speed_up(model, settings.training, "cpu", ranks)
        arguments = training_arguments(settings.training, Path(scratch), "cpu", compute_dtype("cpu"))
        arguments.eval_strategy = arguments.save_strategy = "no"
        TokenTrainer(model, load_tokenizer(folder), rows, rows[:1], arguments, ranks).train()
        peak = resident_gb("VmHWM") - before
    measured = {"loaded_gb": loaded, "peak_gb": peak, "dtype": dtype_name(compute_dtype("cpu"))}
    Path(result).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
