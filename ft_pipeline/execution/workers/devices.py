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
from ft_pipeline.settings.machine import MachineSettings
from ft_pipeline.store.locks import FileLock

POLL_SECONDS = 1.0
OBSTACLE_TIMEOUT = 600.0
"""Seconds to wait while a process without a lease uses the memory, or while nvidia-smi shows no GPU."""
NVIDIA_SMI_TIMEOUT = 30.0
"""Seconds; a driver that was just loaded is slow."""
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
    machine: MachineSettings = field(default_factory=MachineSettings)
    """What the job requests from a cluster besides GPUs."""

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

    def has_total(self, gigabytes: float) -> bool:
        """Whether its total memory is at least this large. True if the driver does not report it."""
        return not self.total_bytes or self.total_bytes >= gigabytes * 1e9

    def has_free(self, gigabytes: float) -> bool:
        """Whether this much of its memory is free now. True if the driver does not report it."""
        return not self.total_bytes or self.free_bytes >= gigabytes * 1e9


@dataclass(frozen=True)
class Lease:
    """What a job may use until it releases the lease."""

    device: str
    """`cpu` or `cuda:0`: inside the worker the leased GPUs are the only ones, counted from 0."""
    env: dict[str, str] = field(default_factory=dict)
    """Added to the worker's environment."""
    gpu_names: tuple[str, ...] = ()
    """The GPUs' model names, for the manifest."""


@dataclass(frozen=True)
class _LockedGpus:
    """The GPUs of a lease, and their locks."""

    gpus: list[Gpu] = field(default_factory=list)
    locks: list[FileLock] = field(default_factory=list)

    def release(self) -> None:
        for lock in self.locks:
            lock.release()


@dataclass(frozen=True)
class _Obstacle:
    """Why a job cannot have its GPUs yet."""

    message: str
    fix: str = ""
    """What the user can do. An obstacle with a fix is an error after OBSTACLE_TIMEOUT; any other is waited out."""


def visible_gpus(log: Callable[[str], None] = lambda message: None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows; empty without an NVIDIA driver. Does not import torch.

    log: called if a driver reports no GPU, and if CUDA_VISIBLE_DEVICES names none of the GPUs.
    """
    output, error = query_nvidia_smi(QUERY)
    gpus = [gpu for line in output.splitlines() if (gpu := _parse_gpu(line))]
    if not gpus and (error or output):
        log(f"nvidia-smi shows no GPU: {error or first_printable_line(output)}")
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return gpus
    visible = _select_visible(gpus, setting)
    if gpus and not visible and setting.strip() not in NO_GPU:
        log(f"CUDA_VISIBLE_DEVICES={setting!r} names none of the GPUs that nvidia-smi shows")
    return visible


def query_nvidia_smi(command: Sequence[str]) -> tuple[str, str]:
    """Return (output of nvidia-smi, why the output is incomplete or empty); both empty without nvidia-smi."""
    if shutil.which(command[0]) is None:
        return "", ""
    try:
        completed = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=NVIDIA_SMI_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"it did not answer within {NVIDIA_SMI_TIMEOUT:g} s"
    except OSError as error:
        return "", f"it does not start ({error.strerror})"
    output, code = completed.stdout.strip(), completed.returncode
    if code == 0:
        return output, ""
    # If one of several GPUs is lost, nvidia-smi fails, but it still shows the others.
    reported = first_printable_line(completed.stderr) or first_printable_line(completed.stdout)
    return output, f"{reported} (exit code {code})".strip()


def first_printable_line(text: str) -> str:
    """Return the first line of a program's output with printable characters, cut to 200."""
    lines = ("".join(filter(str.isprintable, line)).strip() for line in text.splitlines())
    return next((line[:200] for line in lines if line), "")


@contextlib.contextmanager
def lease_devices(need: DeviceNeed, folder: Path, log: Callable[[str], None] = lambda message: None) -> Iterator[Lease]:
    """Lease `need.count` GPUs, or the CPU slot, for a `with` block. `log` receives what it waits for.

    folder: the folder of the CPU slot's lock: one job at a time per store. A GPU is locked for all projects of this
    user on this machine.
    Raises UserError if a GPU is required and none is visible, if the visible GPUs are too few or too small, or after
    OBSTACLE_TIMEOUT.
    """
    problems: list[str] = []
    gpus = visible_gpus(problems.append)
    with _lease_gpus(need, gpus, log) if gpus else _lease_cpu(need, folder, problems, log) as lease:
        yield lease


@contextlib.contextmanager
def _lease_cpu(need: DeviceNeed, folder: Path, problems: list[str], log: Callable[[str], None]) -> Iterator[Lease]:
    """problems: why no GPU is visible; empty on a machine without an NVIDIA driver."""
    if need.required:
        raise UserError(
            f"The experiment sets `gpu`: this step needs {need}, and {_why_no_gpu(problems)}. Remove `gpu` from the "
            "experiment to run it on the CPU, or run it on a machine with a GPU."
        )
    if problems:
        log(f"{problems[0]}, so this step runs on the CPU. To use a GPU, stop the run and fix this first.")
    with FileLock(folder / "cpu", "a job on the CPU").hold(log):
        yield Lease("cpu", {"CUDA_VISIBLE_DEVICES": ""})


def _why_no_gpu(problems: list[str]) -> str:
    """CUDA_VISIBLE_DEVICES, or the driver's message."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is not None and setting.strip() in NO_GPU:
        return f"CUDA_VISIBLE_DEVICES={setting!r} allows none"
    return problems[0] if problems else "nvidia-smi shows none"


@contextlib.contextmanager
def _lease_gpus(need: DeviceNeed, gpus: list[Gpu], log: Callable[[str], None]) -> Iterator[Lease]:
    _require_large_gpus(need, gpus)
    locked = _wait_for_gpus(need, log)
    try:
        visible = ",".join(gpu.uuid for gpu in locked.gpus)
        yield Lease("cuda:0", {"CUDA_VISIBLE_DEVICES": visible}, tuple(gpu.name for gpu in locked.gpus))
    finally:
        locked.release()


def _require_large_gpus(need: DeviceNeed, gpus: list[Gpu]) -> None:
    """Raise UserError if there are fewer GPUs of the required size than are needed, in use or not."""
    large = [gpu for gpu in gpus if gpu.has_total(need.min_memory_gb)]
    if len(large) < need.count:
        present = ", ".join(f"{gpu.name} {gpu.total_bytes / 1e9:.0f} GB" for gpu in gpus)
        raise UserError(
            f"The experiment needs {need}, but this machine has {present}. "
            "Lower gpu.count or gpu.min_memory_gb, or run it on another machine."
        )


def _wait_for_gpus(need: DeviceNeed, log: Callable[[str], None]) -> _LockedGpus:
    """Lock as many GPUs with enough free memory as are needed. Locks none while it waits."""
    logged, since = "", time.monotonic()
    while True:
        result = _try_to_lock(need)
        if isinstance(result, _LockedGpus):
            return result
        if not result.fix:
            since = time.monotonic()
        elif time.monotonic() - since > OBSTACLE_TIMEOUT:
            raise UserError(f"{result.message}. {result.fix}")
        if result.message != logged:
            log(f"waiting: {result.message}")
            logged = result.message
        time.sleep(POLL_SECONDS)


def _try_to_lock(need: DeviceNeed) -> _LockedGpus | _Obstacle:
    """Lock as many GPUs as are needed, those with the most free memory first; if that is impossible, lock none."""
    visible = visible_gpus()
    if not visible:
        fix = "Find the cause with nvidia-smi, repair the driver, and run again."
        return _Obstacle("nvidia-smi no longer shows a GPU", fix)
    large = [gpu for gpu in visible if gpu.has_total(need.min_memory_gb)]
    locked = _LockedGpus()
    obstacle: _Obstacle | None = None
    for gpu in sorted(large, key=lambda candidate: -candidate.free_bytes):
        if len(locked.gpus) == need.count:
            break
        lock = FileLock(_lock_folder() / gpu.uuid, "a job on this GPU")
        if not lock.try_acquire():
            obstacle = obstacle or _Obstacle(f"GPU {gpu.index} is in use by {lock.holder()}")
        elif not gpu.has_free(need.min_memory_gb):
            lock.release()
            obstacle = _memory_in_use(gpu, need)
        else:
            locked.gpus.append(gpu)
            locked.locks.append(lock)
    if len(locked.gpus) == need.count:
        return locked
    locked.release()
    return obstacle or _Obstacle(f"this step needs {need}, but nvidia-smi now shows only {len(large)}")


def _memory_in_use(gpu: Gpu, need: DeviceNeed) -> _Obstacle:
    """The obstacle that a process without a lease uses the memory of a GPU."""
    return _Obstacle(
        f"GPU {gpu.index} has {gpu.free_bytes / 1e9:.1f} GB free, but {need.min_memory_gb:g} GB are required",
        "Find the cause with nvidia-smi and stop the process that uses the memory, or lower gpu.min_memory_gb.",
    )


def _lock_folder() -> Path:
    """The folder of GPU locks that all projects of this user on this machine share."""
    setting = os.environ.get("FT_LEASE_DIR")
    return Path(setting) if setting else Path(tempfile.gettempdir()) / f"ft_pipeline-devices-{os.getuid()}"


def _parse_gpu(line: str) -> Gpu | None:
    """None for a line that does not describe a GPU: a warning, or a message about a lost GPU."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < 5 or not cells[0].isdecimal():
        return None
    index, uuid, *name, total, free = cells
    if not (total.isdecimal() and free.isdecimal()):  # [N/A], on some unified-memory machines
        total = free = "0"
    return Gpu(int(index), uuid, ", ".join(name), int(total) * MIB, int(free) * MIB)


def _select_visible(gpus: list[Gpu], setting: str) -> list[Gpu]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES selects.

    It is read as CUDA reads it: indices or UUID prefixes in order, up to the first unknown or repeated one. nvidia-smi
    does not list MIG slices. A MIG slice that is named is accepted, with unknown memory.
    """
    visible: list[Gpu] = []
    for entry in (part.strip() for part in setting.split(",")):
        matches = [gpu for gpu in gpus if entry == str(gpu.index) or (entry and gpu.uuid.startswith(entry))]
        if entry.startswith("MIG-"):
            matches = [Gpu(len(visible), entry, "MIG slice", 0, 0)]
        if not matches or matches[0] in visible:
            break
        visible.append(matches[0])
    return visible
