"""A device for one job at a time: leases by file lock, so they hold for the UI, the daemon and `ft` alike.

Dagster's pool only queues within one instance; a lease also says which GPU, and that its memory is free.
"""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.store.locks import FileLock

POLL_SECONDS = 1.0
FOREIGN_PATIENCE = 600.0
"""Seconds to wait for memory that a process outside this project holds."""
MIB = 2**20
QUERY = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class DeviceNeed:
    """What a job asks of the machine."""

    count: int = 1
    min_memory_gb: float = 0.0
    """Per GPU, total, in GB of 10⁹ bytes; as much must be free when the job starts."""
    required: bool = False
    """Whether it is an error that there is no GPU; else the job takes the CPU."""


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    """0 where the driver does not say."""
    free_bytes: int

    def offers(self, gigabytes: float) -> bool:
        """Whether it has this much memory, as far as is known."""
        return not self.total_bytes or self.total_bytes >= gigabytes * 1e9

    def has_free(self, gigabytes: float) -> bool:
        """Whether this much of it is free now, as far as is known."""
        return not self.total_bytes or self.free_bytes >= gigabytes * 1e9


@dataclass(frozen=True)
class Lease:
    """What a job may use while it holds the lease."""

    device: str
    """`cpu` or `cuda:0`: inside the worker the leased GPUs are the only ones, counted from 0."""
    env: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """The GPUs' model names, for the manifest."""


def visible_gpus() -> list[Gpu]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES leaves; empty without an NVIDIA driver. Imports no torch."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [_parse(line) for line in done.stdout.splitlines() if line.strip()]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus if allowed is None else _allowed(gpus, allowed)


@contextlib.contextmanager
def lease(need: DeviceNeed, folder: Path, say: Callable[[str], None] = lambda message: None) -> Iterator[Lease]:
    """Hold `need.count` GPUs, or the CPU slot, for a `with` block; `say` hears that it waits, and for what.

    folder: holds the CPU slot's lock: one job at a time per store. GPUs are locked for the whole machine.
    UserError where this machine has no such GPUs, or their memory stays taken by others.
    """
    gpus = visible_gpus()
    if not gpus:
        if need.required:
            raise UserError(f"this needs {need.count} GPU(s) and nvidia-smi shows none: run it on a machine with one")
        with FileLock(folder / "cpu", "a job on the CPU").hold(say):
            yield Lease("cpu", {"CUDA_VISIBLE_DEVICES": ""})
        return
    _check_possible(need, gpus)
    locks, taken = _take(need, say)
    try:
        visible = ",".join(gpu.uuid for gpu in taken)
        yield Lease("cuda:0", {"CUDA_VISIBLE_DEVICES": visible}, tuple(gpu.name for gpu in taken))
    finally:
        for lock in locks:
            lock.release()


def _check_possible(need: DeviceNeed, gpus: list[Gpu]) -> None:
    large = [gpu for gpu in gpus if gpu.offers(need.min_memory_gb)]
    if len(large) < need.count:
        found = ", ".join(f"{gpu.name} {gpu.total_bytes / 1e9:.0f} GB" for gpu in gpus)
        raise UserError(
            f"gpu: asks for {need.count} GPU(s) of at least {need.min_memory_gb:g} GB; this machine shows {found}: "
            "lower gpu.count or gpu.min_memory_gb, or run it elsewhere"
        )


def _take(need: DeviceNeed, say: Callable[[str], None]) -> tuple[list[FileLock], list[Gpu]]:
    """Locks on GPUs with enough free memory: all that are needed, or none while others are waited for."""
    said, foreign_since = "", time.monotonic()
    while True:
        locks, taken, obstacle, foreign = _try_take(need)
        if len(taken) == need.count:
            return locks, taken
        for lock in locks:
            lock.release()
        if not foreign:
            foreign_since = time.monotonic()
        elif time.monotonic() - foreign_since > FOREIGN_PATIENCE:
            raise UserError(f"{obstacle}; end the process that holds it (nvidia-smi shows it), or ask for less")
        if obstacle != said:
            say(f"waiting: {obstacle}")
            said = obstacle
        time.sleep(POLL_SECONDS)


def _try_take(need: DeviceNeed) -> tuple[list[FileLock], list[Gpu], str, bool]:
    """(locks, GPUs, what is in the way, whether it is a process that holds no lease)."""
    locks: list[FileLock] = []
    taken: list[Gpu] = []
    obstacle, foreign = "", False
    for gpu in sorted(visible_gpus(), key=lambda each: -each.free_bytes):
        if len(taken) == need.count:
            break
        if not gpu.offers(need.min_memory_gb):
            continue
        lock = FileLock(_machine_folder() / gpu.uuid, "a job on this GPU")
        if not lock.try_acquire():
            obstacle = obstacle or f"GPU {gpu.index} is in use by {lock.holder()}"
            continue
        if not gpu.has_free(need.min_memory_gb):
            lock.release()
            obstacle, foreign = (
                f"GPU {gpu.index} has {gpu.free_bytes / 1e9:.1f} GB free of {need.min_memory_gb:g}",
                True,
            )
            continue
        locks.append(lock)
        taken.append(gpu)
    return locks, taken, obstacle, foreign


def _machine_folder() -> Path:
    """Locks that every project of this user on this machine shares."""
    given = os.environ.get("FT_LEASE_DIR")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"ft_pipeline-devices-{os.getuid()}"


def _parse(line: str) -> Gpu:
    index, uuid, name, total, free = (cell.strip() for cell in line.split(","))
    return Gpu(int(index), uuid, name, _mebibytes(total), _mebibytes(free))


def _mebibytes(cell: str) -> int:
    """Bytes; 0 where the driver does not say ([N/A], on some unified-memory machines)."""
    return int(cell) * MIB if cell.isdigit() else 0


def _allowed(gpus: list[Gpu], allowed: str) -> list[Gpu]:
    """What CUDA makes of CUDA_VISIBLE_DEVICES: indices or UUID prefixes, in order, up to the first unknown one.

    nvidia-smi does not list MIG slices; one that is named is taken as it is, its memory unknown.
    """
    found: list[Gpu] = []
    for entry in (part.strip() for part in allowed.split(",")):
        match = [gpu for gpu in gpus if entry == str(gpu.index) or (entry and gpu.uuid.startswith(entry))]
        if entry.startswith("MIG-"):
            match = [Gpu(len(found), entry, "MIG slice", 0, 0)]
        if not match:
            break
        found.append(match[0])
    return found
