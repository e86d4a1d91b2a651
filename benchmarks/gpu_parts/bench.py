"""What a part of gpu.py works with: folders, the device, and processes that measure.

This process never imports torch. Each measurement runs in a process of its own, so that an error of the GPU ends one
measurement and not the acceptance, and so that the peak memory is that of the measurement.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu.py"
MODELS = "models"
"""The folder of the models, in the folder of the results."""
_SAME_ERRORS = 3
"""After so many equal errors in a row, the further measurements of a list are not tried."""
_LAST_LINES = 4_000
"""Bytes of a log that are searched for the last line."""
Item = dict[str, Any]
Outcome = dict[str, Any]
"""{"result": …, "seconds": …}, {"skipped": reason} or {"error": message}."""


class Skipped(Exception):
    """This machine cannot run the part; the message says why."""


class Failed(Exception):
    """A measurement that the whole part needs failed."""


class OutOfTime(Exception):
    """The time of this call, or of the part, is over."""


@dataclass(frozen=True)
class Bench:
    """The surroundings of one part."""

    out: Path
    """The folder of the results."""
    part: str
    device: str
    """`cuda` or `cpu`."""
    scale: str
    """`full` or `tiny`: tiny models, for a trial of the program itself."""
    deadline: float
    """When the part must end, by time.monotonic()."""
    has_all_minutes: bool = False
    """Whether the part ends there for good; otherwise the next call runs it again."""
    _started: list[int] = field(default_factory=list)

    @property
    def is_tiny(self) -> bool:
        return self.scale == "tiny"

    @property
    def torch_device(self) -> str:
        """The device as a worker gets it: it sees one GPU."""
        return "cpu" if self.device == "cpu" else "cuda:0"

    @property
    def device_dtypes(self) -> tuple[str, str]:
        """The types that are compared with the CPU's float32: float32, and the one that trainings use on a GPU."""
        return ("float32", "auto" if self.device == "cuda" else "bfloat16")

    def model(self, name: str) -> str:
        """The folder of a model that the part `models` made. Skipped if it is not there."""
        folder = self.out / MODELS / name
        if not folder.is_dir():
            raise Skipped(f"there is no model {name!r}: see the part `models`")
        return str(folder)

    def has_model(self, name: str) -> bool:
        return (self.out / MODELS / name).is_dir()

    def folder(self, name: str) -> str:
        """A path for files of this part."""
        return str(self.out / "work" / self.part / name)

    def run(self, task: str, item: Item, *, gpus: int = 1) -> Any:
        """The result of one measurement. Skipped or Failed with its reason."""
        (outcome,) = self.run_each(task, [item], gpus=gpus)
        if "skipped" in outcome:
            raise Skipped(outcome["skipped"])
        if "error" in outcome:
            raise Failed(outcome["error"])
        return outcome["result"]

    def run_each(self, task: str, items: Sequence[Item], *, gpus: int = 1, alone: bool = False) -> list[Outcome]:
        """The outcome of each measurement. They share a process until one fails; the others run in a new one.

        alone: each runs in a process of its own, where its peak memory counts or its libraries exclude others.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < len(items):
            errors = {outcome.get("error") for outcome in outcomes[-_SAME_ERRORS:]}
            if len(outcomes) >= _SAME_ERRORS and len(errors) == 1 and (error := errors.pop()):
                return outcomes + [{"error": f"not tried after {error}"}] * (len(items) - len(outcomes))
            rest = items[len(outcomes) :]
            outcomes += self._process(task, rest[:1] if alone else rest, gpus)
            if time.monotonic() >= self.deadline and len(outcomes) < len(items):
                if not self.has_all_minutes:
                    raise OutOfTime
                return outcomes + [{"error": "no time was left"}] * (len(items) - len(outcomes))
        return outcomes

    def _process(self, task: str, items: Sequence[Item], gpus: int) -> list[Outcome]:
        """Start a process for the items; return one outcome or more, or those until the time was over."""
        self._started.append(1)
        name = f"{self.part}-{len(self._started):02d}-{task}"
        files = {end: self.out / "logs" / f"{name}.{end}" for end in ("json", "jsonl", "log")}
        files["log"].parent.mkdir(parents=True, exist_ok=True)
        files["json"].write_text(json.dumps(list(items)), encoding="utf-8")
        files["jsonl"].unlink(missing_ok=True)
        command = [sys.executable, str(SCRIPT), "task", task, str(files["json"]), str(files["jsonl"])]
        with files["log"].open("wb") as log:
            code = self._wait(command, log, gpus)
        text = files["jsonl"].read_text(encoding="utf-8") if files["jsonl"].exists() else ""
        outcomes: list[Outcome] = [json.loads(line) for line in text.split("\n")[:-1]]  # the last one may be cut off
        has_ended_early = len(outcomes) < len(items) and not (outcomes and "error" in outcomes[-1])
        if has_ended_early and code is not None:
            outcomes.append({"error": f"the process ended with {code}; {_last_line(files['log'])} ({files['log']})"})
        return outcomes

    def _wait(self, command: list[str], log: Any, gpus: int) -> int | None:
        """The exit code; None if the time was over before."""
        process = subprocess.Popen(
            command, cwd=ROOT, env=self._environment(gpus), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill(process)

    def _environment(self, gpus: int) -> dict[str, str]:
        from ft_pipeline.execution.workers.launchers import usable_cores  # it knows the quota of a container

        path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        visible = visible_gpus()[:gpus] if self.device == "cuda" else []
        return {
            "OMP_NUM_THREADS": str(usable_cores()),
            **os.environ,
            "CUDA_VISIBLE_DEVICES": ",".join(visible),  # transformers would use all that it sees
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all below it: a server that it started may be in a session of its own, and hold GPU memory."""
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in below:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    from ft_pipeline.execution.workers import gpus

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(gpu.index) for gpu in gpus.visible_gpus()]


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-_LAST_LINES:].decode(errors="replace").strip().splitlines()
    return f"the last line of its log is {lines[-1].strip()[:300]!r}" if lines else "its log is empty"


# --- what a part returns ----------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What a part found: checks, each with its limit, and tables of numbers."""

    checks: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """What this machine cannot run, with the reason."""

    def check(self, name: str, value: float, limit: float, *, at_least: bool = False) -> bool:
        """Add a check: `value` must not be above `limit`; with at_least, not below it. NaN never passes."""
        passed = value >= limit if at_least else value <= limit
        self.checks.append({"name": name, "value": value, "limit": limit, "at_least": at_least, "passed": passed})
        return passed

    def error(self, name: str, message: str) -> None:
        """Add a check that failed because there is nothing to measure."""
        self.checks.append({"name": name, "passed": False, "error": message})

    def taken(self, name: str, outcome: Outcome) -> Any:
        """The result of an outcome; None, with a note, if it was skipped or failed."""
        if "result" in outcome:
            return outcome["result"]
        if "skipped" in outcome:
            self.skipped[name] = outcome["skipped"]
        else:
            self.error(name, outcome["error"])
        return None

    def row(self, table: str, **values: Any) -> None:
        """Add a row to a table."""
        self.tables.setdefault(table, []).append(values)

    @property
    def status(self) -> str:
        """`passed`, `failed`, or `skipped` if nothing was checked or measured."""
        if not self.checks and not self.tables:
            return "skipped"
        return "passed" if all(check["passed"] for check in self.checks) else "failed"
