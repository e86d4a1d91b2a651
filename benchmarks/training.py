"""Training speed: ours against TRL's SFTTrainer with its defaults, on the same rows, in one run.

    python benchmarks/training.py [ROWS.json|ROWS.jsonl ...] [--rows 64] [--rounds 2] [--llama-factory PYTHON]

Each contender runs in a process of its own (peak memory is a property of a process), in turn, over the same rows:
SmolLM2-135M, NF4 QLoRA r = 8 on q, k, v, o, batches of 8, one epoch. LLaMA-Factory joins in where PYTHON names the
interpreter of an environment that has it. The ceiling is what this machine's matrix products and dequantisation alone
would take (ceiling.py). Results: benchmarks/results/training.json.
"""

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ceiling
import llama_factory

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
BATCH = 8
LENGTH = 512


def main() -> None:
    arguments = _arguments()
    if arguments.contender:
        print(
            json.dumps(
                CONTENDERS[arguments.contender](Path(arguments.base), read_rows(arguments.files, arguments.rows))
            )
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = convert_base(Path(scratch))
        rounds = [_round(base, arguments) for _ in range(arguments.rounds)]
    report = _summarise(rounds, arguments)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(_table(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="Alpaca rows, JSON or JSONL (default: the shipped support rows)")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--llama-factory", metavar="PYTHON", help="an interpreter that has LLaMA-Factory")
    parser.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.files = arguments.files or sorted(map(str, (ROOT / "data" / "raw" / "alpaca").glob("support_*.jsonl")))
    return arguments


def read_rows(files: list[str], count: int) -> list[list[dict[str, str]]]:
    """The first `count` rows as conversations."""
    rows: list[list[dict[str, str]]] = []
    for name in files:
        text = Path(name).read_text(encoding="utf-8")
        items = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
        for item in items:
            question = "\n\n".join(part for part in (item["instruction"], item.get("input")) if part)
            rows.append([{"role": "user", "content": question}, {"role": "assistant", "content": item["output"]}])
    return rows[:count]


def convert_base(scratch: Path) -> Path:
    from ft_pipeline.job import Job
    from ft_pipeline.models import base_model

    out = scratch / "base"
    out.mkdir()
    base_model.run(Job("base_model", {"model": "embedded"}, {}, out, scratch, "cpu", _Silent()))
    return out


def _round(base: Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    found = {name: _run(name, base, arguments) for name in CONTENDERS}
    if arguments.llama_factory:
        rows = read_rows(arguments.files, arguments.rows)
        tokens = sum(len(row["input_ids"]) for row in _encode(base, rows))
        found["llama-factory"] = llama_factory.train(arguments.llama_factory, base, rows, tokens, BATCH, LENGTH)
    return found


def _run(name: str, base: Path, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments.files, "--rows", str(arguments.rows)]
    command += ["--contender", name, "--base", str(base)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    result: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    print(f"{name}: {result['tokens_per_second']:.0f} tokens/s, peak {result['peak_memory_gb']:.1f} GB", flush=True)
    return result


def _encode(base: Path, rows: list[list[dict[str, str]]]) -> list[dict[str, Any]]:
    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.training.tokens import encode, render_conversation

    tokenizer = load_tokenizer(base)
    encoded = encode(tokenizer, [text for row in rows for text in render_conversation(tokenizer, row)])
    return [{"input_ids": row.input_ids[:LENGTH], "labels": row.labels[:LENGTH]} for row in encoded]


def ours(
    technique: str, base: Path, rows: list[list[dict[str, str]]], around: Any = None, **keys: bool
) -> dict[str, float]:
    """Our trainer, as `adapter` runs it, without its held-out evaluations; `keys` of `training` beside the defaults.

    `around` is a context that the training runs in, the loading of the model not.

    With torch_compile the epoch that is timed follows one that compiles, whose extra seconds are `compile_seconds`.
    """
    import torch

    from ft_pipeline.experiments import ATTENTION, ExperimentSettings
    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.training.arguments import training_arguments
    from ft_pipeline.training.speed import speed_up
    from ft_pipeline.training.techniques import new_model
    from ft_pipeline.training.trainer import AnswerTrainer

    settings = ExperimentSettings.model_validate(
        {
            "technique": technique,
            "lora": {"target_modules": [*ATTENTION]},  # as the others have it
            "training": {"learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": BATCH, **keys},
        }
    )
    encoded = _encode(base, rows)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(settings.training, Path(scratch), "cpu", torch.bfloat16)
        arguments.eval_strategy = arguments.save_strategy = "no"
        model = new_model(base, settings, "cpu")
        speed_up(model, settings.training, "cpu")
        trainer = AnswerTrainer(model, load_tokenizer(base), encoded, encoded[:1], arguments)
        with around or contextlib.nullcontext():
            first = _timed(trainer, encoded)
        if not settings.training.torch_compile:
            return first
        second = _timed(trainer, encoded)
        return {**second, "compile_seconds": first["seconds"] - second["seconds"]}


def _trl(base: Path, rows: list[list[dict[str, str]]]) -> dict[str, float]:
    """TRL as its documentation shows it: conversations in, defaults throughout, QLoRA by peft_config."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=quantization, dtype=torch.bfloat16)
    conversations = [{"prompt": row[:-1], "completion": row[-1:]} for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                use_cpu=True,
                max_length=LENGTH,
                per_device_train_batch_size=BATCH,
                num_train_epochs=1,
                learning_rate=1e-3,
                optim="paged_adamw_8bit",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(conversations),
            processing_class=AutoTokenizer.from_pretrained(base),
            peft_config=LoraConfig(
                r=8, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
            ),
        )
        return _timed(trainer, _encode(base, rows))


def _timed(trainer: Any, encoded: list[dict[str, Any]]) -> dict[str, float]:
    from ft_pipeline.training.usage import peak_memory_gb

    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    tokens = sum(len(row["input_ids"]) for row in encoded)
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "peak_memory_gb": peak_memory_gb("cpu"),
        "tokens": tokens,
    }


def _summarise(rounds: list[dict[str, dict[str, float]]], arguments: argparse.Namespace) -> dict[str, Any]:
    def best(name: str, key: str) -> float:
        return max(round_[name][key] for round_ in rounds)

    baseline = best("trl", "tokens_per_second")
    limit = best("ceiling", "tokens_per_second")
    return {
        "rows": arguments.rows,
        "tokens": int(best("trl", "tokens")),
        "machine": {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()},
        "rounds": rounds,
        "contenders": {
            name: {
                "tokens_per_second": best(name, "tokens_per_second"),
                "times_trl": best(name, "tokens_per_second") / baseline,
                "of_ceiling": best(name, "tokens_per_second") / limit,
                "peak_memory_gb": best(name, "peak_memory_gb"),
            }
            for name in rounds[0]
        },
    }


def _table(report: dict[str, Any]) -> str:
    width = max(map(len, report["contenders"]))
    lines = [
        "",
        f"{report['rows']} rows, {report['tokens']:,} tokens, batch {BATCH}",
        f"{'contender':{width}}  tokens/s  x TRL  of ceiling  peak GB",
    ]
    for name, row in report["contenders"].items():
        lines.append(
            f"{name:{width}}  {row['tokens_per_second']:8.0f}  {row['times_trl']:5.1f}  {row['of_ceiling']:10.0%}  "
            f"{row['peak_memory_gb']:7.1f}"
        )
    return "\n".join(lines)


class _Silent:
    def progress(self, step: int, total: int, **values: float) -> None:
        pass

    def log(self, message: str) -> None:
        pass


def _ceiling(base: Path, rows: list[list[dict[str, str]]]) -> dict[str, float]:
    return ceiling.measure(base, [len(row["input_ids"]) for row in _encode(base, rows)], BATCH)


CONTENDERS = {
    "ceiling": _ceiling,
    "trl": _trl,
    "ours qlora": lambda base, rows: ours("qlora", base, rows),
    "ours lora": lambda base, rows: ours("lora", base, rows),
    "ours qlora padding_free": lambda base, rows: ours("qlora", base, rows, padding_free=True),
    "ours qlora padding_free torch_compile": lambda base, rows: ours(
        "qlora", base, rows, padding_free=True, torch_compile=True
    ),
}

if __name__ == "__main__":
    main()
