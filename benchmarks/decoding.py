"""Seconds that answers take: ours against transformers' `generate`, on the same prompts, in one run.

    python benchmarks/decoding.py [--rows 32] [--tokens 60] [--rounds 2] [--dtype auto|float32|bfloat16]

Two cases, greedily, in one batch each: prompts that share 600 tokens of examples, and plain prompts of about 80 tokens.
Each contender runs in a separate process, in turn, with the embedded model. transformers gets the padded prompts
and its DynamicCache. Results: benchmarks/results/decoding.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import embedded
import machine

ROOT = embedded.ROOT
RESULTS = ROOT / "benchmarks" / "results" / "decoding.json"
SHARED = 600
PLAIN = 80
CASES = ("shared_prefix", "plain")


def main() -> None:
    arguments = _arguments()
    if arguments.contender:
        print(json.dumps(_contend(arguments)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = embedded.convert_base(Path(scratch))
        rounds = [{name: _run(name, base, arguments) for name in CONTENDERS} for _ in range(arguments.rounds)]
    report = _summarise(rounds, arguments)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for case, numbers in report["cases"].items():
        print(f"{case}: {numbers['times_transformers']:.2f} times as fast, {numbers['same_answers']} answers the same")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=60, help="new tokens per answer at most")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(name: str, base: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    options = {"rows": arguments.rows, "tokens": arguments.tokens, "dtype": arguments.dtype}
    command = [sys.executable, __file__, "--contender", name, "--base", str(base)]
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    for case in CASES:
        print(f"{name}, {case}: {result[case]['seconds']:.1f} s", flush=True)
    return result


def _contend(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from ft_pipeline.models.cpu.fast_linear import speed_up_products
    from ft_pipeline.models.load import load_model, load_tokenizer
    from ft_pipeline.training.trainer.memory_usage import peak_memory_gb

    dtype = None if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    model, tokenizer = load_model(arguments.base, "cpu", dtype=dtype), load_tokenizer(arguments.base)
    if arguments.contender == "ours":  # as every worker that scores does
        speed_up_products(model, trains=False)
    result: dict[str, Any] = {"dtype": str(model.dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    for case, prompts in _prompts(tokenizer, arguments.rows).items():
        CONTENDERS[arguments.contender](model, tokenizer, prompts[:2], 2)  # libraries load on the first call
        started = time.monotonic()
        answers = CONTENDERS[arguments.contender](model, tokenizer, prompts, arguments.tokens)
        lengths = [len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
        result[case] = {
            "seconds": time.monotonic() - started,
            "answers": answers,
            "answer_tokens": sum(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers),
            "prompt_tokens": sum(lengths) / len(lengths),
            "peak_memory_gb": peak_memory_gb("cpu"),
        }
    return result


def _prompts(tokenizer: Any, rows: int) -> dict[str, list[str]]:
    """The rendered prompts of each case: the rows' questions behind examples, and by themselves."""
    from ft_pipeline.models.chat import render

    files = sorted(map(str, (ROOT / "data" / "raw" / "alpaca").glob("support_*.jsonl")))
    conversations = embedded.read_rows(files, 10_000)

    def prompt(examples: list[dict[str, str]], question: dict[str, str]) -> str:
        return render(tokenizer, [*examples, question], add_generation_prompt=True)

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    examples: list[dict[str, str]] = []
    while length(prompt(examples, conversations[0][0])) - length(prompt([], conversations[0][0])) < SHARED:
        examples += conversations.pop()
    plain = sorted(
        (prompt([], turns[0]) for turns in conversations), key=lambda text: (abs(length(text) - PLAIN), text)
    )
    return {
        "shared_prefix": [prompt(examples, turns[0]) for turns in conversations[:rows]],
        "plain": plain[:rows],
    }


def _ours(model: Any, tokenizer: Any, prompts: list[str], tokens: int) -> list[str]:
    from ft_pipeline.models.decoding.generate import generate

    return [
        answer.text for answer in generate(model, tokenizer, prompts, max_new_tokens=tokens, batch_size=len(prompts))
    ]


def _transformers(model: Any, tokenizer: Any, prompts: list[str], tokens: int) -> list[str]:
    """As transformers' documentation has it: left padding, one call."""
    import torch

    from ft_pipeline.models.chat import stop_token_ids

    tokenizer.padding_side = "left"
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        rows = model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=stop_token_ids(tokenizer, model),
            pad_token_id=tokenizer.pad_token_id,
        )
    texts: list[str] = tokenizer.batch_decode(rows[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


CONTENDERS = {"transformers": _transformers, "ours": _ours}


def _summarise(rounds: list[dict[str, dict[str, Any]]], arguments: argparse.Namespace) -> dict[str, Any]:
    def best(name: str, case: str) -> float:
        return min(float(round_[name][case]["seconds"]) for round_ in rounds)

    first = rounds[0]
    cases = {
        case: {
            "seconds": {name: best(name, case) for name in CONTENDERS},
            "times_transformers": best("transformers", case) / best("ours", case),
            "same_answers": sum(
                answer == expected
                for answer, expected in zip(
                    first["ours"][case]["answers"], first["transformers"][case]["answers"], strict=True
                )
            ),
            "prompt_tokens": first["ours"][case]["prompt_tokens"],
            "answer_tokens": {name: first[name][case]["answer_tokens"] for name in CONTENDERS},
            "peak_memory_gb": {name: first[name][case]["peak_memory_gb"] for name in CONTENDERS},
        }
        for case in CASES
    }
    return {
        "rows": arguments.rows,
        "new_tokens": arguments.tokens,
        "dtype": first["ours"]["dtype"],
        "machine": {**machine.describe(), "threads": first["ours"]["threads"]},
        "seconds_by_round": [
            {name: {case: round_[name][case]["seconds"] for case in CASES} for name in CONTENDERS} for round_ in rounds
        ],
        "cases": cases,
    }


if __name__ == "__main__":
    main()
