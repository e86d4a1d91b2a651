"""Seconds that asking an endpoint takes, against what its speed allows, and the memory that it needs.

    .venv/bin/python benchmarks/distillation.py [--prompts 5000] [--slots 64] [--latency 0.2] [--rounds 2]

The server answers each request after `latency` seconds, `slots` at once, in a separate process: the ideal is
prompts / slots * latency. The client is what the asset `teacher_answers` runs, its log on this disk included.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import machine

from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.chat_completions import Endpoint
from ft_pipeline.models.endpoint.request_loop import ChatRequest, send_all
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline_tests.distillation.fault_server import MODEL, serving

RESULT = Path(__file__).parent / "results" / "distillation.json"
PROMPT = "My parcel, order {number}, was due on Monday and has not arrived. Where is it, and when will it be here? "


class Memory:
    """A reporter that looks at this process's memory while the run continues."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def progress(self, step: int, total: int, **values: float) -> None:
        tenth = step * 10 // total
        if tenth not in self.at:
            self.at[tenth] = _resident_mb()

    def log(self, message: str) -> None:
        print(message)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--prompts", type=int, default=5000)
    options.add_argument("--slots", type=int, default=64)
    options.add_argument("--latency", type=float, default=0.2)
    options.add_argument("--rounds", type=int, default=2)
    given = options.parse_args()
    rounds = [_in_a_process(given) for _ in range(given.rounds)]
    for found in rounds:
        print(json.dumps(found))
    best = min(rounds, key=lambda found: found["seconds"])
    document = {
        "prompts": given.prompts,
        "slots": given.slots,
        "latency_seconds": given.latency,
        "ideal_seconds": given.prompts / given.slots * given.latency,
        "share_of_ideal": round(given.prompts / given.slots * given.latency / best["seconds"], 3),
        "rounds": rounds,
        "machine": machine.describe(),
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{best['seconds']:.2f} s, ideal {document['ideal_seconds']:.2f} s: {document['share_of_ideal']:.1%}")


def _in_a_process(given: argparse.Namespace) -> dict[str, Any]:
    """One round, server and client each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, given.latency, given.slots), daemon=True)
    server.start()
    results, results_there = context.Pipe()
    client = context.Process(target=_ask, args=(results_there, here.recv(), given.prompts, given.slots))
    client.start()
    found = results.recv()
    client.join()
    here.send("end")
    server.join(10)
    return found


def _serve(pipe: Connection, latency: float, slots: int) -> None:
    with serving(latency=latency, slots=slots) as server:
        pipe.send(server.url)
        pipe.recv()


def _ask(pipe: Connection, url: str, prompts: int, slots: int) -> None:
    teacher = TeacherSettings.model_validate(
        {
            "model": MODEL,
            "few_shot": 0,
            "system_prompt": "Be short. " * 50,
            "endpoint": {"url": url, "concurrency": slots},
        }
    )
    teacher_prompt = TeacherPrompt(teacher, [])

    def requests() -> Iterator[ChatRequest]:
        for number in range(prompts):
            yield teacher_prompt.request([{"role": "user", "content": PROMPT.format(number=number)}])

    memory = Memory()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, AnswerLog.open(Path(folder), print) as log:
        began, used = time.monotonic(), _cpu_seconds()
        asked = send_all(lambda: Endpoint(teacher, None), log, requests(), prompts, teacher, memory)
        seconds = time.monotonic() - began
    pipe.send(
        {
            "seconds": round(seconds, 2),
            "answered": asked.answered,
            "client_cpu_seconds": round(_cpu_seconds() - used, 2),
            "memory_mb_by_tenth": {str(tenth): round(mb, 1) for tenth, mb in memory.at.items()},
            "load_before": round(load, 2),
        }
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
