"""Where the seconds of a QLoRA training go on this machine, by kind of operation.

    python benchmarks/training_profile.py [ROWS.json|ROWS.jsonl ...] [--rows 32]

The same training as `ours qlora` of training.py, with padded batches and with padding_free, under torch's profiler:
seconds that each operator takes by itself (its callees left out), summed by kind, in the machine's compute type.
Loading the model is left out.
Results: benchmarks/results/training_profile.json.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import machine
from contenders import ours
from embedded import ROOT, convert_base, read_rows, shipped_files
from torch.profiler import ProfilerActivity, profile

RESULTS = ROOT / "benchmarks" / "results" / "training_profile.json"
KINDS = {
    "matrix products": ("mm", "bmm", "linear", "matmul", "mkldnn", "baddbmm"),
    "attention": ("attention", "flash"),
    "dequantisation": ("bitsandbytes", "dequantize", "gemm_4bit"),
    "copies and casts": ("copy_", "_to_copy", "cat", "clone", "contiguous", "fill_", "zero_"),
    "element-wise": (
        "mul",
        "add",
        "silu",
        "div",
        "sub",
        "neg",
        "rsqrt",
        "pow",
        "exp",
        "sum",
        "mean",
        "softmax",
        "sigmoid",
    ),
    "indexing": ("index", "gather", "scatter", "embedding", "slice", "select", "nonzero"),
}


def kind_of(operator: str) -> str:
    """The first kind one of whose words is in the operator's name."""
    return next((kind for kind, words in KINDS.items() if any(word in operator for word in words)), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=32)
    given = parser.parse_args()
    rows = read_rows(given.files or shipped_files(), given.rows)
    with tempfile.TemporaryDirectory() as scratch:
        base = convert_base(Path(scratch))
        report = {
            "machine": machine.describe_compute(),
            "padded": _profile(base, rows, padding_free=False),
            "padding_free": _profile(base, rows, padding_free=True),
        }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def _profile(base: Path, rows: list[list[dict[str, str]]], **keys: bool) -> dict[str, Any]:
    profiled = profile(activities=[ProfilerActivity.CPU])
    ours("qlora", base, rows, around=profiled, **keys)
    operators = {event.key: event.self_cpu_time_total / 1e6 for event in profiled.key_averages()}
    total = sum(operators.values())
    kinds: dict[str, float] = {}
    for name, seconds in operators.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + seconds
    largest = sorted(operators.items(), key=lambda each: -each[1])[:15]
    return {
        "seconds": round(total, 2),
        "share_by_kind": {kind: round(kinds[kind] / total, 3) for kind in sorted(kinds, key=lambda kind: -kinds[kind])},
        "largest_operators": {name: round(seconds / total, 3) for name, seconds in largest},
    }


if __name__ == "__main__":
    main()
