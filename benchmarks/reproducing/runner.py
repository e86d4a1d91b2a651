"""Runs of the reproductions as processes, some at a time, until none is left; each result is kept at once."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import machine
from reproducing.estimates import BASE
from reproducing.ledger import Ledger
from reproducing.trainings import ARMS, called_for, mean_loss, still_unnamed

_START = 12.0
"""Seconds of a process before it trains."""
_OF_PRODUCTS = 0.7
"""Speed against plain matrix products, for the estimate before a run is finished. It is high because _PASSES counts the
embedding as a product, and the head for every token: it reads answers only."""
_PASSES = {"full": 6, "lora": 4, "qlora": 4}
"""FLOP per parameter and trained token, by technique; 2 where nothing is trained."""
Task = dict[str, Any]


class Runner:
    """Every run of some studies that is not finished yet."""

    def __init__(
        self, script: Path, work: Path, ledger: Ledger, *, studies: Sequence[int], seeds: Sequence[int], jobs: int
    ) -> None:
        """script: does a task that follows `--worker`. jobs: how many processes at a time, which share the cores."""
        self._script = script
        self._work = work
        self._ledger = ledger
        self._studies = studies
        self._seeds = seeds
        self._jobs = jobs
        self._expected: dict[str, float] = {}

    def prepare(self, rows: int, held_out: int) -> dict[str, Any]:
        """Rows and base model in the working folder; facts of them and of the machine."""
        setup = self._process("prepare", {"do": "prepare", "rows": rows, "held_out": held_out})
        speed = setup["gflops"] * 1e9 * _OF_PRODUCTS
        pass_over = {name: tokens * setup["parameters"] / speed for name, tokens in setup["tokens"].items()}
        evaluation = _START + 2 * pass_over["held_out"]
        self._expected = {name: evaluation + flop * pass_over["train"] for name, flop in _PASSES.items()}
        self._expected[BASE] = _START + 10 * pass_over["held_out"]  # the base and four 4-bit forms
        return setup

    def run_all(self, rows_file: str) -> None:
        """SystemExit where a run fails; finished ones are kept."""
        print(f"{len(self._ledger.runs)} runs are finished. {self._left()}", flush=True)
        running: dict[Future[dict[str, Any]], str] = {}
        with ThreadPoolExecutor(self._jobs) as pool:
            while True:
                ready = {key: task for key, task in self._pending().items() if key not in running.values()}
                for key, task in list(ready.items())[: self._jobs - len(running)]:
                    running[pool.submit(self._timed, key, {**task, "rows_file": rows_file})] = key
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._keep(running.pop(future), future.result())

    def _keep(self, key: str, run: dict[str, Any]) -> None:
        self._ledger.add({"key": key, "technique": _technique(key), "jobs": self._jobs, **run})
        loss = "diverged" if run.get("diverged") else f"{mean_loss(run):.4f} nats per token"
        done = len(self._ledger.runs)
        total = done + len(self._pending()) + len(self._unnamed())
        print(f"[{done}/{total}] {key}: {loss}, {run['seconds']:.0f} s. {self._left()}", flush=True)

    def _pending(self) -> dict[str, Task]:
        """The tasks that can be named and are not finished, by key."""
        tasks: dict[str, Task] = {BASE: {"do": "measure_base"}}
        for training in called_for(self._studies, self._seeds, self._losses()):
            arm, rate, seed = training.arm.name, training.rate, training.seed
            tasks[training.key] = {"do": "train", "arm": arm, "rate": rate, "seed": seed}
        return {key: task for key, task in tasks.items() if key not in self._ledger.runs}

    def _unnamed(self) -> list[str]:
        return [training.key for training in still_unnamed(self._studies, self._seeds, self._losses())]

    def _losses(self) -> dict[str, float]:
        return {key: mean_loss(run) for key, run in self._ledger.runs.items()}

    def _left(self) -> str:
        """A sentence: the time left, by finished runs of the same technique, else by the speed of matrix products."""
        taken: dict[str, list[float]] = {}
        for run in self._ledger.runs.values():
            taken.setdefault(run["technique"], []).append(run["seconds"])
        means = {**self._expected, **{name: sum(seconds) / len(seconds) for name, seconds in taken.items()}}
        rest = [*self._pending(), *self._unnamed()]
        minutes = sum(means[_technique(key)] for key in rest) / 60 / self._jobs
        return f"About {minutes:.0f} min left for {len(rest)} runs."

    def _timed(self, key: str, task: Task) -> dict[str, Any]:
        started = time.monotonic()
        result = self._process(key, task)
        return {"seconds": time.monotonic() - started, **result}

    def _process(self, key: str, task: Task) -> dict[str, Any]:
        """Do `task` in a separate process, which ends with this one. SystemExit where it fails."""
        threads = max(1, machine.usable_cores() // self._jobs)
        environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **os.environ}
        command = [sys.executable, str(self._script), "--worker", json.dumps({**task, "work": str(self._work)})]
        log = self._work / "logs" / (re.sub(r"\W+", "_", key) + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("w", encoding="utf-8") as errors,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            ) as process,
        ):
            assert process.stdout
            output = process.stdout.read()
        if process.returncode:
            raise SystemExit(f"The run {key!r} failed with status {process.returncode}. Read {log}.")
        result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return result


def _technique(key: str) -> str:
    return next((arm.technique for name, arm in ARMS.items() if key.startswith(f"{name}, learning rate")), BASE)
