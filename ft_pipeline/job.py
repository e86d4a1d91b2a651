"""What a heavy step gets: the seam between the supervisor's worker process and the stage rooms."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Reporter(Protocol):
    """How a running job tells people where it stands; every call is cheap and may be throttled."""

    def progress(self, step: int, total: int, **values: float) -> None:
        """Report that `step` of `total` is done, with numbers worth plotting (`loss`, `tokens_per_second`)."""
        ...

    def log(self, message: str) -> None:
        """Write one line to the run log."""
        ...


@dataclass(frozen=True)
class Rank:
    """Which one this process is of those that do one job together; rank 0 alone reports and writes."""

    number: int = 0
    count: int = 1
    meeting: Path | None = None
    """A file through which they find each other."""
    sharded: bool = False
    """Whether the weights are divided among them too (FSDP2), or each holds all of them (DDP)."""
    reshard: bool = True
    """FSDP2: whether a layer's weights are divided again between its forward and backward pass."""


@dataclass(frozen=True)
class Job:
    """One heavy step, resolved: nothing in it depends on the project folder, the environment or Dagster."""

    kind: str
    """The artifact's kind, e.g. `adapter`."""
    config: dict[str, Any]
    """Resolved settings, plain JSON."""
    inputs: dict[str, Path]
    """Folders of the artifacts that this job reads, by name."""
    out: Path
    """Finished files go here; the folder becomes the artifact."""
    work: Path
    """Scratch that survives a kill and is found again by the same spec: checkpoints, answers so far."""
    device: str
    """`cpu` or `cuda:N`, leased by the supervisor."""
    report: Reporter
    handling: dict[str, Any] = field(default_factory=dict)
    """Settings of the work that change no result: rates, budgets, prices."""
    shared: Path | None = None
    """Kept for every job of the store: the answers of teachers, which were paid for. None: there is only `work`."""
    rank: Rank = Rank()
