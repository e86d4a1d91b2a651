"""Leases a device to one job at a time. Leases are file locks, so they apply to the UI, the daemon and `ft` alike.

Dagster's pool only queues within one instance. A lease also selects the GPU and ensures that its memory is free.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.store.locks import FileLock

POLL_SECONDS = 1.0
FOREIGN_PATIENCE = 600.0
"""Seconds to wait for memory that a process outside this project uses."""
PATIENCE = 30.0
"""Timeout of nvidia-smi in seconds; a driver that was just loaded is slow."""
NO_GPU = ("", "-1")
"""Values of CUDA_VISIBLE_DEVICES that select the CPU."""
MIB = 2**20
QUERY = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class DeviceNeed:
    """The devices that a job needs."""

    count: int = 1
    min_memory_gb: float = 0.0
    """Total memory per GPU, in GB of 10⁹ bytes. As much must be free when the job starts."""
    required: bool = False
    """Whether a missing GPU is an error; otherwise the job uses the CPU."""

    def __str__(self) -> str:
        """`2 GPUs of at least 40 GB`."""
        memory = f" of at least {self.min_memory_gb:g} GB" if self.min_memory_gb else ""
        return f"{self.count} GPU{'s' if self.count > 1 else ''}{memory}"


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    """0 if the driver does not report it."""
    free_bytes: int

    def offers(self, gigabytes: float) -> bool:
        """Whether it has this much memory, as far as is known."""
        return not self.total_bytes or self.total_bytes >= gigabytes * 1e9

    def has_free(self, gigabytes: float) -> bool:
        """Whether this much of it is free now, as far as is known."""
        return not self.total_bytes or self.free_bytes >= gigabytes * 1e9


@dataclass(frozen=True)
class Lease:
    """What a job may use until it releases the lease."""

    device: str
    """`cpu` or `cuda:0`: inside the worker the leased GPUs are the only ones, counted from 0."""
    env: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """The GPUs' model names, for the manifest."""


def visible_gpus(say: Callable[[str], None] = lambda message: None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows; empty without an NVIDIA driver. Does not import torch.

    say: called if a driver reports no GPU, and if CUDA_VISIBLE_DEVICES names none of the GPUs.
    """
    shown, wrong = ask_driver(QUERY)
    gpus = [gpu for line in shown.splitlines() if (gpu := _parse(line))]
    if not gpus and (wrong or shown):
        say(f"nvidia-smi shows no GPU: {wrong or first_words(shown)}")
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return gpus
    visible = _allowed(gpus, allowed)
    if gpus and not visible and allowed.strip() not in NO_GPU:
        say(f"CUDA_VISIBLE_DEVICES={allowed!r} names none of the GPUs that nvidia-smi shows")
    return visible


def ask_driver(query: Sequence[str]) -> tuple[str, str]:
    """Return (output of nvidia-smi, why the output is incomplete or empty); both empty without nvidia-smi."""
    if shutil.which(query[0]) is None:
        return "", ""
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return "", f"it did not answer within {PATIENCE:g} s"
    except OSError as error:
        return "", f"it does not start ({error.strerror})"
    reported = first_words(done.stderr) or first_words(done.stdout)
    # If one of several GPUs is lost, nvidia-smi fails, but it still shows the others.
    return done.stdout.strip(), f"{reported} (exit code {done.returncode})".strip() if done.returncode else ""


def first_words(text: str) -> str:
    """Return the first line of a program's output with printable characters, cut to 200."""
    lines = ("".join(filter(str.isprintable, line)).strip() for line in text.splitlines())
    return next((line[:200] for line in lines if line), "")


@contextlib.contextmanager
def lease(need: DeviceNeed, folder: Path, say: Callable[[str], None] = lambda message: None) -> Iterator[Lease]:
    """Lease `need.count` GPUs, or the CPU slot, for a `with` block. `say` is called with what it waits for.

    folder: the folder of the CPU slot's lock: one job at a time per store. GPUs are locked for the whole machine.
    Raises UserError if this machine has no such GPUs, or if other processes keep using their memory.
    """
    wrong: list[str] = []
    gpus = visible_gpus(wrong.append)
    if not gpus:
        if need.required:
            raise UserError(
                f"The experiment sets `gpu`: this step needs {need}, and {_why_none(wrong)}. Remove `gpu` from the "
                "experiment to run it on the CPU, or run it on a machine with a GPU."
            )
        if wrong:
            say(f"{wrong[0]}, so this step runs on the CPU. To use a GPU, stop the run and fix this first.")
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


def _why_none(wrong: list[str]) -> str:
    """Why no GPU is visible: CUDA_VISIBLE_DEVICES, or the driver's message."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None and allowed.strip() in NO_GPU:
        return f"CUDA_VISIBLE_DEVICES={allowed!r} allows none"
    return wrong[0] if wrong else "nvidia-smi shows none"


def _check_possible(need: DeviceNeed, gpus: list[Gpu]) -> None:
    large = [gpu for gpu in gpus if gpu.offers(need.min_memory_gb)]
    if len(large) < need.count:
        shown = ", ".join(f"{gpu.name} {gpu.total_bytes / 1e9:.0f} GB" for gpu in gpus)
        raise UserError(
            f"The experiment needs {need}, but this machine has {shown}. "
            "Lower gpu.count or gpu.min_memory_gb, or run it on another machine."
        )


def _take(need: DeviceNeed, say: Callable[[str], None]) -> tuple[list[FileLock], list[Gpu]]:
    """Lock as many GPUs with enough free memory as are needed, or none while it waits."""
    reported, foreign_since = "", time.monotonic()
    while True:
        locks, taken, obstacle, foreign = _try_take(need)
        if len(taken) == need.count:
            return locks, taken
        for lock in locks:
            lock.release()
        if not foreign:
            foreign_since = time.monotonic()
        elif time.monotonic() - foreign_since > FOREIGN_PATIENCE:
            raise UserError(
                f"{obstacle}. Find the cause with nvidia-smi and stop the process that uses the memory, or lower "
                "gpu.min_memory_gb."
            )
        if obstacle != reported:
            say(f"waiting: {obstacle}")
            reported = obstacle
        time.sleep(POLL_SECONDS)


def _try_take(need: DeviceNeed) -> tuple[list[FileLock], list[Gpu], str, bool]:
    """Return (locks, GPUs, obstacle, whether the obstacle is a process without a lease)."""
    locks: list[FileLock] = []
    taken: list[Gpu] = []
    obstacle, foreign = "", False
    gpus = visible_gpus()
    if not gpus:
        return [], [], "nvidia-smi no longer shows a GPU", True
    for gpu in sorted(gpus, key=lambda candidate: -candidate.free_bytes):
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
                f"GPU {gpu.index} has {gpu.free_bytes / 1e9:.1f} GB free of the required {need.min_memory_gb:g} GB",
                True,
            )
            continue
        locks.append(lock)
        taken.append(gpu)
    return locks, taken, obstacle, foreign


def _machine_folder() -> Path:
    """The folder of locks that all projects of this user on this machine share."""
    given = os.environ.get("FT_LEASE_DIR")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"ft_pipeline-devices-{os.getuid()}"


def _parse(line: str) -> Gpu | None:
    """None for a line that does not describe a GPU: a warning, or a message about a lost GPU."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < 5 or not cells[0].isdecimal():
        return None
    index, uuid, *name, total, free = cells
    if not (total.isdecimal() and free.isdecimal()):  # [N/A], on some unified-memory machines
        total = free = "0"
    return Gpu(int(index), uuid, ", ".join(name), int(total) * MIB, int(free) * MIB)


def _allowed(gpus: list[Gpu], allowed: str) -> list[Gpu]:
    """Read CUDA_VISIBLE_DEVICES as CUDA does: indices or UUID prefixes in order, up to the first unknown or repeated.

    nvidia-smi does not list MIG slices. A MIG slice that is named is accepted, with unknown memory.
    """
    visible: list[Gpu] = []
    for entry in (part.strip() for part in allowed.split(",")):
        match = [gpu for gpu in gpus if entry == str(gpu.index) or (entry and gpu.uuid.startswith(entry))]
        if entry.startswith("MIG-"):
            match = [Gpu(len(visible), entry, "MIG slice", 0, 0)]
        if not match or match[0] in visible:
            break
        visible.append(match[0])
    return visible
