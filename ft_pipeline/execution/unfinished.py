"""What attempts at a training took that ended without a result: they are a part of what the training cost.

Each is a line of a file beside the checkpoints of its step. The next artifact of the same experiment takes them all
into its manifest, whatever settings they had.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ft_pipeline.evaluation.comparison.costs import TIMED_KINDS
from ft_pipeline.store.spec import Spec

FILE_NAME = "unfinished.jsonl"


@dataclass(frozen=True)
class Attempt:
    """An attempt that failed, or that somebody stopped."""

    experiment: str
    seconds: float
    device_seconds: float
    """The same, times its GPUs."""


def note_attempt(work: Path, spec: Spec, experiment: str | None, seconds: float, gpus: int) -> None:
    """Keep what an attempt took. work: the folder of its checkpoints. Only of trainings of an experiment."""
    if experiment is None or spec.kind not in TIMED_KINDS:
        return
    line = json.dumps(asdict(Attempt(experiment, seconds, seconds * max(1, gpus))))
    with contextlib.suppress(OSError), (work / FILE_NAME).open("a", encoding="utf-8") as file:  # the disk may be full
        file.write(f"{line}\n")


class UnfinishedAttempts:
    """Those of an experiment at one kind of artifact, since its last artifact."""

    def __init__(self, store: Path, kind: str, experiment: str | None) -> None:
        files = sorted((store / "work" / kind).glob(f"*/{FILE_NAME}")) if experiment else []
        read = {path: attempts for path in files if (attempts := _read(path))}
        self._files = [path for path, attempts in read.items() if attempts[0].experiment == experiment]
        self.attempts = [attempt for path in self._files for attempt in read[path]]

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says about them; empty if there were none."""
        if not self.attempts:
            return {}
        seconds, device_seconds = (
            sum(getattr(attempt, name) for attempt in self.attempts) for name in ("seconds", "device_seconds")
        )
        told = {"attempts": len(self.attempts), "seconds": seconds, "device_seconds": device_seconds}
        return {"unfinished": told}

    def forget(self) -> None:
        """Remove them: an artifact tells them now."""
        for path in self._files:
            path.unlink(missing_ok=True)


def _read(path: Path) -> list[Attempt]:
    """Return the attempts in a file. A line that cannot be read is left out: a process may have died writing it."""
    attempts = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            attempts.append(TypeAdapter(Attempt).validate_json(line))
    return attempts
