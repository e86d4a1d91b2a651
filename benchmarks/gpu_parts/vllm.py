"""The part `vllm`: vLLM as a teacher and as a server, against this project's own answers."""

import os
import time
from pathlib import Path
from typing import Any

from gpu_parts.bench import Bench, Findings, Skipped
from gpu_parts.trainings import DTYPE_VARIABLE

_SAME_BEGINNINGS = 0.7
"""Share of answers whose first letters must be the same: in 16 bit, other kernels choose other tokens now and then."""
_BEGINNING = 12
_PROMPTS, _TOKENS = 64, 48
_START_SECONDS = 360


def measure(bench: Bench) -> Findings:
    """Ask vLLM and our own decoding the same, greedily."""
    from ft_pipeline.models.serving_engines import find_program

    if find_program("vllm") is None:
        raise Skipped("the program `vllm` is not on the PATH: install it, in an environment of its own if you like")
    findings = Findings()
    name = "embedded" if bench.has_model("embedded") else "small"
    item = {"base": bench.model(name), "device": bench.torch_device, "prompts": 4 if bench.is_tiny else _PROMPTS}
    for task in ("teacher", "server"):
        (outcome,) = bench.run_each(task, [{**item, "folder": bench.folder(task)}])
        if result := findings.taken(f"vLLM as a {task}", outcome):
            label = f"{name}, vLLM as a {task}: answers that begin as ours"
            findings.check(label, result["same_beginnings"], _SAME_BEGINNINGS, at_least=True)
            findings.row("vLLM", model=name, used_as=task, **result)
    return findings


def answer(item: dict[str, Any]) -> dict[str, float]:
    """The worker of a teacher, in vLLM and in transformers."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from embedded import Silent

    from ft_pipeline.distillation import teacher
    from ft_pipeline.job import Job
    from ft_pipeline.tables.formats.arrow_schema import MESSAGES

    os.environ[DTYPE_VARIABLE] = "auto"
    folder = Path(item["folder"])
    rows = [
        {"messages": question, "file": "inbox.jsonl", "row": number, "id": str(number)}
        for number, question in enumerate(_questions(item))
    ]
    prompts = folder / "unlabelled"
    prompts.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("messages", MESSAGES), ("file", pa.string()), ("row", pa.int64()), ("id", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), prompts / "rows.parquet")
    inputs = {"unlabelled": prompts, "conversations": prompts, "base_model": Path(item["base"])}
    answers, seconds = {}, {}
    for engine in ("vllm", "transformers"):
        out, work = folder / f"out_{engine}", folder / f"work_{engine}_{time.time_ns()}"
        for path in (out, work):
            path.mkdir(parents=True, exist_ok=True)
        config = {"teacher": {"few_shot": 0, "max_new_tokens": _TOKENS, "engine": engine, "batch_size": 64}}
        summary = teacher.run(Job("teacher_answers", config, inputs, out, work, item["device"], Silent()))
        seconds[engine] = summary["seconds"]
        table = pq.read_table(out / "answers.parquet").to_pylist()
        answers[engine] = [row["answer"] or "" for row in sorted(table, key=lambda row: int(row["id"]))]
    return {
        "same_beginnings": _same_beginnings(answers["vllm"], answers["transformers"]),
        "seconds": seconds["vllm"],
        "seconds_of_ours": seconds["transformers"],
    }


def serve(item: dict[str, Any]) -> dict[str, float]:
    """The command with which `ft serve` starts vLLM, asked over HTTP."""
    import json

    from ft_pipeline.models.serving_engines import HOST, OFFLINE_ENVIRONMENT, find_engine
    from ft_pipeline.serving.engine_process import EngineProcess, free_port, send

    os.environ[DTYPE_VARIABLE] = "auto"
    base = Path(item["base"])
    address = (HOST, free_port(HOST))
    command = [*find_engine("vllm").command(base.name, base.parent, address[1]), "--max-model-len", "1024"]
    started = time.monotonic()
    engine = EngineProcess(command, base.parent, OFFLINE_ENVIRONMENT, address)
    try:
        while not engine.is_healthy():
            if engine.exit_code is not None:
                raise RuntimeError(f"vLLM ended with {engine.exit_code}")
            if time.monotonic() - started > _START_SECONDS:
                raise RuntimeError(f"vLLM did not start within {_START_SECONDS} s")
            time.sleep(0.5)
        ready = time.monotonic()
        answers = []
        for question in _questions(item):
            request = {"model": base.name, "messages": question, "max_tokens": _TOKENS, "temperature": 0, "seed": 0}
            status, body = send(address, "POST", "/v1/chat/completions", request, seconds=120)
            if status != 200:
                raise RuntimeError(f"vLLM answered with status {status}: {body[:200]!r}")
            answers.append(json.loads(body)["choices"][0]["message"]["content"] or "")
        seconds = time.monotonic() - ready
    finally:
        engine.stop()
    return {
        "same_beginnings": _same_beginnings(answers, _own_answers(item)),
        "seconds": seconds,
        "seconds_to_start": ready - started,
    }


def _own_answers(item: dict[str, Any]) -> list[str]:
    from ft_pipeline.models.chat import render
    from ft_pipeline.models.decoding.generate import generate
    from ft_pipeline.models.load import load_model, load_tokenizer

    base = Path(item["base"])
    tokenizer, model = load_tokenizer(base), load_model(base, item["device"])
    prompts = [render(tokenizer, question, add_generation_prompt=True) for question in _questions(item)]
    return [answer.text for answer in generate(model, tokenizer, prompts, max_new_tokens=_TOKENS, batch_size=64)]


def _questions(item: dict[str, Any]) -> list[list[dict[str, str]]]:
    from embedded import read_rows, shipped_files

    return [row[:1] for row in read_rows(shipped_files(), item["prompts"])]


def _same_beginnings(answers: list[str], expected: list[str]) -> float:
    pairs = list(zip(answers, expected, strict=True))
    return sum(one.strip()[:_BEGINNING] == other.strip()[:_BEGINNING] for one, other in pairs) / len(pairs)
