"""Seconds that our harness needs against plain lm-eval, for the same requests on the same loaded model.

    .venv/bin/python benchmarks/evaluation.py [--items 60] [--rounds 2]

Both get the same task files: losses and answers to the same rendered contexts. Plain lm-eval is its own HFLM with the
same batch size. The two take turns, so that a noisy machine hits both. Results: benchmarks/results/evaluation.json.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import machine
from lm_eval.models.huggingface import HFLM

from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.scoring.lm_eval_harness import Task, answer_task, loss_task, run_tasks
from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM
from ft_pipeline.evaluation.scoring.prompts import Prompt, render_items
from ft_pipeline.job import Job
from ft_pipeline.models import base_model
from ft_pipeline.models.chat import Message, stop_strings
from ft_pipeline.models.load import load_model, load_tokenizer

RESULTS = Path(__file__).parent / "results" / "evaluation.json"
RAW = Path(__file__).parent.parent / "data" / "raw" / "alpaca"
SHOTS = 6
MAX_NEW_TOKENS = 96
BATCH_SIZE = 16


class Quiet:
    """A reporter that says nothing."""

    def progress(self, step: int, total: int, **values: float) -> None: ...

    def log(self, message: str) -> None: ...


def read_turns(count: int) -> list[tuple[Message, ...]]:
    """The first `count` rows of the worked example, as single-turn conversations."""
    lines = [line for path in sorted(RAW.glob("support_*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    rows = [json.loads(line) for line in lines[:count]]
    return [
        ({"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]})
        for row in rows
    ]


def build_tasks(tokenizer: Any, prompt: Prompt, turns: list[tuple[Message, ...]]) -> list[Task]:
    items = [Item(f"{number}:1", str(number), turn) for number, turn in enumerate(turns)]
    rendered = render_items(tokenizer, items, prompt, name="benchmark", window=None, max_new_tokens=MAX_NEW_TOKENS)
    rows = [{"context": one.context, "target": one.target, "reference": one.item.reference} for one in rendered]
    return [loss_task(rows), answer_task(rows, stop_strings(tokenizer), MAX_NEW_TOKENS)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--items", type=int, default=60)
    options.add_argument("--rounds", type=int, default=2)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        folder.mkdir()
        base_model.run(Job("base_model", {"model": "embedded"}, {}, folder, Path(scratch), "cpu", Quiet()))
        model, tokenizer = load_model(folder, "cpu"), load_tokenizer(folder)
        turns = read_turns(given.items + SHOTS)
        prompts = {"plain": Prompt(), f"{SHOTS} examples": Prompt(examples=tuple(turns[:SHOTS]))}
        makers: dict[str, Callable[[], Any]] = {
            "ours": lambda: LoadedLM(model, tokenizer, BATCH_SIZE, lambda done: None),
            "lm-eval": lambda: HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=BATCH_SIZE),
        }
        seconds: dict[str, dict[str, list[float]]] = {label: {name: [] for name in makers} for label in prompts}
        for round_number in range(given.rounds):
            for label, prompt in prompts.items():
                tasks = build_tasks(tokenizer, prompt, turns[SHOTS:])
                for name, make in makers.items():
                    started = time.monotonic()
                    run_tasks(make(), tasks, Path(scratch) / f"{name}-{label}-{round_number}")
                    took = time.monotonic() - started
                    seconds[label][name].append(round(took, 1))
                    print(f"round {round_number + 1}  {label:<12} {name:<8} {took:7.1f} s", flush=True)
    report = summarise(seconds, given.items)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for label, row in report["prompts"].items():
        print(f"{label}: ours takes {row['times_lm_eval']:.2f} times the seconds of lm-eval")


def summarise(seconds: dict[str, dict[str, list[float]]], items: int) -> dict[str, Any]:
    """By prompt the seconds of each round, and the quickest of ours against the quickest of lm-eval."""
    prompts = {
        label: {**found, "times_lm_eval": round(min(found["ours"]) / min(found["lm-eval"]), 2)}
        for label, found in seconds.items()
    }
    return {
        "machine": machine.describe_compute(),
        "items": items,
        "batch_size": BATCH_SIZE,
        "max_new_tokens": MAX_NEW_TOKENS,
        "prompts": prompts,
    }


if __name__ == "__main__":
    main()
