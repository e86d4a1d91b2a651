"""Training speed: ours against TRL's SFTTrainer, with its defaults and like for like, on the same rows, in one run.

    python benchmarks/training.py [ROWS.json|ROWS.jsonl ...] [--rows 64] [--rounds 2] [--llama-factory PYTHON]
                                  [--only NAME ...] [--out FILE]

Each contender runs in a separate process (peak memory is a property of a process), in turn, over the same rows:
SmolLM2-135M, NF4 QLoRA r = 8 on q, k, v, o, batches of 8, one epoch, in the machine's compute type. "trl like for like"
has the same tokens in the same batches as ours, and gradient checkpointing on neither side: both must show the same
losses. "ours qlora padded" pads these batches, as TRL does; "ours qlora" lays their rows end to end, as it does by
default on a CPU. LLaMA-Factory joins in where PYTHON names the interpreter of an environment that has it. The ceiling
is what this machine's matrix products and dequantization alone would take (ceiling.py).

Results: benchmarks/results/training.json, with the CPU by name. For a CPU without AVX-512 on one that has it:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \\
        python benchmarks/training.py --out benchmarks/results/training_avx2.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import llama_factory
import machine
from contenders import BATCH, CONTENDERS
from embedded import LENGTH, ROOT, convert_base, encode_rows, read_rows, shipped_files

RESULTS = ROOT / "benchmarks" / "results" / "training.json"
TRL, LIKE_FOR_LIKE = "trl", "trl like for like"


def main() -> None:
    arguments = _arguments()
    if arguments.contender:
        rows = read_rows(arguments.files, arguments.rows)
        print(json.dumps(CONTENDERS[arguments.contender](Path(arguments.base), rows)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = convert_base(Path(scratch))
        rounds = [_round(base, arguments) for _ in range(arguments.rounds)]
    report = _summarize(rounds, arguments)
    if not arguments.only:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(_table(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="Alpaca rows, JSON or JSONL (default: the shipped support rows)")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--llama-factory", metavar="PYTHON", help="an interpreter that has LLaMA-Factory")
    parser.add_argument("--only", nargs="*", choices=sorted(CONTENDERS), help="print these, write no results")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file for the results")
    parser.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.files = arguments.files or shipped_files()
    return arguments


def _round(base: Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    results = {name: _run(name, base, arguments) for name in arguments.only or _contenders()}
    if arguments.llama_factory:
        rows = read_rows(arguments.files, arguments.rows)
        tokens = sum(len(row["input_ids"]) for row in encode_rows(base, rows))
        results["llama-factory"] = llama_factory.train(arguments.llama_factory, base, rows, tokens, BATCH, LENGTH)
    return results


def _contenders() -> list[str]:
    """All of them; a machine that computes in float32 does not compile."""
    from ft_pipeline.training.trainer.acceleration import why_not_compiled

    return [name for name in CONTENDERS if "torch_compile" not in name or why_not_compiled() is None]


def _run(name: str, base: Path, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments.files, "--rows", str(arguments.rows)]
    command += ["--contender", name, "--base", str(base)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    result: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    losses = f", first loss {result['first_loss']:.4f}" if "first_loss" in result else ""
    speed, memory = result["tokens_per_second"], result["peak_memory_gb"]
    print(f"{name}: {speed:.0f} tokens/s, peak {memory:.1f} GB{losses}", flush=True)
    return result


def _summarize(rounds: list[dict[str, dict[str, float]]], arguments: argparse.Namespace) -> dict[str, Any]:
    """By contender the best of the rounds, against TRL, TRL like for like and the ceiling."""

    def best(name: str, key: str) -> float:
        return max(round_[name][key] for round_ in rounds)

    def against(name: str, other: str) -> float | None:
        return best(name, "tokens_per_second") / best(other, "tokens_per_second") if other in rounds[0] else None

    return {
        "rows": arguments.rows,
        "tokens": int(max(result["tokens"] for result in rounds[0].values())),
        "machine": machine.describe_compute(),
        "rounds": rounds,
        "contenders": {
            name: {
                "tokens_per_second": best(name, "tokens_per_second"),
                "times_trl": against(name, TRL),
                "times_trl_like_for_like": against(name, LIKE_FOR_LIKE),
                "of_ceiling": against(name, "ceiling"),
                "peak_memory_gb": best(name, "peak_memory_gb"),
                "first_loss": first.get("first_loss"),
                "mean_loss": first.get("mean_loss"),
            }
            for name, first in rounds[0].items()
        },
    }


def _table(report: dict[str, Any]) -> str:
    facts = report["machine"]
    width = max(map(len, report["contenders"]))
    lines = [
        "",
        f"{report['rows']} rows, {report['tokens']:,} tokens, batch {BATCH}, {facts['compute_dtype']} on {facts['cpu']}"
        f" ({facts['threads']} threads)",
        f"{'contender':{width}}  tokens/s  x TRL  x like for like  of ceiling  peak GB  first loss  mean loss",
    ]
    for name, row in report["contenders"].items():
        lines.append(
            f"{name:{width}}  {row['tokens_per_second']:8.0f}  {_shown(row['times_trl'], '5.1f')}  "
            f"{_shown(row['times_trl_like_for_like'], '15.1f')}  {_shown(row['of_ceiling'], '10.0%')}  "
            f"{row['peak_memory_gb']:7.1f}  {_shown(row['first_loss'], '10.4f')}  {_shown(row['mean_loss'], '9.4f')}"
        )
    return "\n".join(lines)


def _shown(value: float | None, form: str) -> str:
    """`value` by its format, or a dash of the same width."""
    return f"{value:{form}}" if value is not None else f"{'-':>{form.split('.', maxsplit=1)[0]}}"


if __name__ == "__main__":
    main()
