"""How the cost of a comparison grows with rows and test items.

    .venv/bin/python -m benchmarks.growth

Each world has a prompt baseline of three rows and experiments with one merged model each, whose losses are drawn. What
is measured is what the step `comparison` computes: leads, intervals and claims of all pairs, and its document. Results:
benchmarks/results/growth.json: CPU seconds of the better of two rounds, and by what power they grow (1: linear).
"""

import argparse
import json
import math
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from ft_pipeline.decide.build import build
from ft_pipeline_tests.evaluation.scored import scored

RESULTS = Path(__file__).parent / "results" / "growth.json"
SIZES = [(rows, 1000) for rows in (5, 10, 20, 50, 100)] + [(20, items) for items in (100, 300, 3000, 10_000)]
"""Rows and test items."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    lines = [measure(rows, items, arguments.rounds) for rows, items in SIZES]
    by_rows = sorted((line for line in lines if line["items"] == 1000), key=lambda line: line["rows"])
    by_items = sorted((line for line in lines if line["rows"] == 20), key=lambda line: line["items"])
    result = {
        "machine": machine.describe(),
        "lines": lines,
        "exponent_of_rows": exponents(by_rows, "rows"),
        "exponent_of_items": exponents(by_items, "items"),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(rows: int, items: int, rounds: int) -> dict[str, Any]:
    """Return the CPU seconds of a comparison of so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = world(Path(folder), rows, items)
        seconds = [timed(inputs) for _ in range(rounds)]
    line = {"rows": rows, "items": items, "cpu_seconds": round(min(seconds), 3)}
    print(line, flush=True)
    return line


def timed(inputs: dict[str, Path]) -> float:
    started = time.process_time()
    json.dumps(build(inputs, {"primary_metric": "loss"}).to_json())
    return time.process_time() - started


def world(folder: Path, rows: int, items: int) -> dict[str, Path]:
    """Write the scores of the rows, three of them prompts."""
    generator = np.random.default_rng(0)
    difficulty = generator.normal(2.0, 0.5, items)

    def row(kind: str, gain: float) -> dict[str, Any]:
        correct = (generator.random(400) < 0.6).tolist()
        return {
            "kind": kind,
            "losses": (difficulty - gain + generator.normal(0, 0.2, items)).tolist(),
            "correct": correct,
        }

    prompts = {"plain": row("base", 0), "short": row("prompt", 0.1), "few_shot": row("prompt", 0.2)}
    inputs = {"e0/prompt_baseline": scored(folder / "prompts", prompts)}
    for number in range(rows - len(prompts)):
        tuned = {"merged": {**row("merged", 0.3 + number / 1000), "technique": "lora"}}
        inputs[f"e{number}/scores"] = scored(folder / f"tuned_{number}", tuned)
    return inputs


def exponents(lines: list[dict[str, Any]], size: str) -> list[float]:
    """Return by what power the seconds grow from each line to the next."""
    return [
        round(math.log(after["cpu_seconds"] / before["cpu_seconds"]) / math.log(after[size] / before[size]), 2)
        for before, after in pairwise(lines)
    ]


if __name__ == "__main__":
    main()
