"""LLaMA-Factory as its documentation shows it, in a separate environment: a YAML, and its command line."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def train(
    python: str, base: Path, rows: list[list[dict[str, str]]], tokens: int, batch: int, length: int
) -> dict[str, float]:
    """One epoch of NF4 QLoRA r = 8 over `rows`, in the machine's compute type; tokens_per_second by its own
    `train_runtime`, and peak_memory_gb. `tokens` are those of the rows as we render them, so that all contenders divide
    the same number."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = folder / "train.yaml"
        settings.write_text(json.dumps(_settings(base, folder, batch, length)), encoding="utf-8")
        _write_data(folder, rows)
        process = subprocess.Popen(
            [python, "-m", "llamafactory.cli", "train", str(settings)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "DISABLE_VERSION_CHECK": "1"},
            stdout=sys.stderr,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"LLaMA-Factory ended with status {os.waitstatus_to_exitcode(status)}")
        seconds = json.loads((folder / "out" / "train_results.json").read_text(encoding="utf-8"))["train_runtime"]
    peak = usage.ru_maxrss * 1024 / 1e9
    return {"tokens_per_second": tokens / seconds, "peak_memory_gb": peak, "tokens": tokens}


def _write_data(folder: Path, rows: list[list[dict[str, str]]]) -> None:
    about = {"rows": {"file_name": "rows.json", "columns": {"prompt": "instruction", "response": "output"}}}
    (folder / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")
    alpaca = [{"instruction": question["content"], "output": answer["content"]} for question, answer in rows]
    (folder / "rows.json").write_text(json.dumps(alpaca), encoding="utf-8")


def _settings(base: Path, folder: Path, batch: int, length: int) -> dict[str, Any]:
    from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name

    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(base),
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_alpha": 8,
        "lora_target": "q_proj,k_proj,v_proj,o_proj",
        "quantization_bit": 4,
        "quantization_method": "bnb",
        "dataset_dir": str(folder),
        "dataset": "rows",
        "template": "chatml",
        "cutoff_len": length,
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "bf16": dtype_name(compute_dtype("cpu")) == "bfloat16",  # without it, it computes in fp32 on a CPU
        "use_cpu": True,
        "optim": "paged_adamw_8bit",
        "save_strategy": "no",
        "report_to": "none",
        "overwrite_output_dir": True,
    }
