"""The input of a worker: the interface between the worker process and the stages."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Reporter(Protocol):
    """How a running job reports its progress. Every call is cheap and may be throttled."""

    def progress(self, step: int, total: int, **values: float) -> None:
        """Report that `step` of `total` is done, with numbers worth plotting (`loss`, `tokens_per_second`)."""
        ...

    def log(self, message: str) -> None:
        """Write one line to the run log."""
        ...


@dataclass(frozen=True)
class Rank:
    """The number of this process among the processes that do one job together. Only rank 0 reports and writes."""

    number: int = 0
    count: int = 1
    meeting: Path | None = None
    """A file through which the processes find each other. None for a single process."""
    sharded: bool = False
    """Whether the weights are also divided among the processes (FSDP2), or each process has all of them (DDP)."""
    reshard: bool = True
    """FSDP2: whether a layer's weights are divided again between its forward and backward pass."""


@dataclass(frozen=True)
class Job:
    """The resolved input of one step. Nothing in it depends on the project folder, the environment or Dagster."""

    kind: str
    """The artifact's kind, e.g. `adapter`."""
    config: dict[str, Any]
    """Resolved settings, plain JSON."""
    inputs: dict[str, Path]
    """Folders of the artifacts that this job reads, by name."""
    out: Path
    """Folder for the finished files. It becomes the artifact."""
    work: Path
    """Scratch folder that survives a kill and is used again for the same spec: checkpoints, answers so far."""
    device: str
    """`cpu` or `cuda:N`, leased by the supervisor."""
    report: Reporter
    handling: dict[str, Any] = field(default_factory=dict)
    """Settings that do not affect the result: rates, budgets, prices."""
    shared: Path | None = None
    """Folder that all jobs of the store share, for the paid answers of teachers. None: there is only `work`."""
    rank: Rank = Rank()
    secrets: tuple[str, ...] = ()
    """Names of environment variables that only this job was given: code of the project must not see them."""
