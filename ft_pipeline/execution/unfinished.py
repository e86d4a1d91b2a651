"""What attempts at a training took that ended without a result: they are a part of what the training cost.

Each is a line of a file of the experiment. The next artifact of the experiment takes them all into its manifest,
whatever settings they had.
"""

import contextlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ft_pipeline.evaluation.comparison.costs import TIMED_KINDS
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

RUN_KEY = "unfinished"
"""Of what a manifest says about its run: the number of attempts, and their sums."""


class Attempt(BaseModel):
    """An attempt that failed, or that somebody stopped."""

    seconds: float
    device_seconds: float
    """The same, times its GPUs."""


class UnfinishedAttempts:
    """Those of an experiment at one kind of artifact, since its last artifact. A disk that is full, or a file that
    cannot be read, ends no run: what was noted there is lost."""

    def __init__(self, store: Path, spec: Spec, experiment: str | None) -> None:
        """experiment: None for what belongs to none. Steps that are no trainings have no attempts."""
        folder = store / "work" / "unfinished" / f"{spec.kind}.{experiment}"  # `ft gc` removes old folders here
        self._file = folder / "attempts.jsonl" if experiment and spec.kind in TIMED_KINDS else None
        self.attempts = _read(self._file) if self._file else []

    def add(self, seconds: float, gpus: int) -> None:
        """Keep what an attempt took."""
        if self._file is None:
            return
        line = Attempt(seconds=seconds, device_seconds=seconds * max(1, gpus)).model_dump_json()
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says about them; empty if there were none."""
        if not self.attempts:
            return {}
        sums = {name: sum(getattr(attempt, name) for attempt in self.attempts) for name in Attempt.model_fields}
        return {RUN_KEY: {"attempts": len(self.attempts), **sums}}

    def forget(self, artifact: Artifact) -> None:
        """Remove them if the artifact tells them. One of the same content that was there before does not."""
        if self._file is not None and self.attempts and RUN_KEY in artifact.manifest["run"]:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)


def _read(path: Path) -> list[Attempt]:
    """Return the attempts in a file. A line that cannot be read is left out: a process may have died writing it."""
    attempts = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                attempts.append(Attempt.model_validate_json(line))
    return attempts
