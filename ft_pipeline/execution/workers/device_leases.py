"""Leases a device to one job at a time. Leases are file locks, so they apply to the UI, the daemon and `ft` alike.

A job that waits sleeps. Once a second it tries the locks of its devices, if it is the first in their lines. It calls
nvidia-smi only when a lock is free. A lease also selects the GPU and ensures that its memory is free.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.device_line import PlaceInLine, is_held
from ft_pipeline.execution.workers.gpus import NO_GPU, Gpu, visible_gpus
from ft_pipeline.settings.machine import MachineSettings
from ft_pipeline.store.locks import FileLock

POLL_SECONDS = 1.0
OBSTACLE_TIMEOUT = 600.0
"""Seconds to wait while a process without a lease uses the memory, or while nvidia-smi shows no GPU."""
CPU = "cpu"
"""Name of the CPU slot among the devices."""


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
class Lease:
    """What a job may use until it releases the lease."""

    device: str
    """`cpu` or `cuda:0`: inside the worker the leased GPUs are the only ones, counted from 0."""
    env: dict[str, str] = field(default_factory=dict)
    """Added to the worker's environment."""
    gpu_names: tuple[str, ...] = ()
    """The GPUs' model names, for the manifest."""


@dataclass(frozen=True)
class _Locked:
    """The GPUs of a lease (none for the CPU), and the locks."""

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


@contextlib.contextmanager
def lease_devices(
    need: DeviceNeed,
    folder: Path,
    log: Callable[[str], None] = lambda message: None,
    job: str = "a job",
    log_wait: Callable[[str], None] | None = None,
) -> Iterator[Lease]:
    """Lease `need.count` GPUs, or the CPU slot, for a `with` block.

    log: receives why no GPU is used, and what the job waits for unless `log_wait` receives that.
    folder: the folder of the CPU slot's lock: one job at a time per store. A GPU is locked for all projects of this
    user on this machine.
    job: the job's name for those that wait behind it.
    Raises UserError if a GPU is required and none is visible, if the visible GPUs are too few or too small, or after
    OBSTACLE_TIMEOUT.
    """
    problems: list[str] = []
    gpus = visible_gpus(problems.append)
    if not gpus:
        _accept_cpu(need, problems, log)
    wait = log_wait or log
    with _lease_gpus(need, gpus, wait, job) if gpus else _lease_cpu(folder, wait, job) as lease:
        yield lease


def device_locks(store: Path) -> Path:
    """Return the folder of the lock of a store's CPU slot."""
    return store / "locks" / "devices"


def device_slots() -> int:
    """Return how many jobs can have a device at once: one per visible GPU, or one on the CPU."""
    return max(1, len(visible_gpus()))


def _accept_cpu(need: DeviceNeed, problems: list[str], log: Callable[[str], None]) -> None:
    """Raise UserError if the job may not use the CPU, and report a broken driver.

    problems: why no GPU is visible; empty on a machine without an NVIDIA driver.
    """
    if need.required:
        raise UserError(
            f"The experiment sets `gpu`: this step needs {need}, and {_why_no_gpu(problems)}. Remove `gpu` from the "
            "experiment to run it on the CPU, or run it on a machine with a GPU."
        )
    if problems:
        log(f"{problems[0]}, so this step runs on the CPU. To use a GPU, stop the run and fix this first.")


@contextlib.contextmanager
def _lease_cpu(folder: Path, log: Callable[[str], None], job: str) -> Iterator[Lease]:
    with _wait(lambda place: _try_cpu(folder, place, job), PlaceInLine(folder, job), log):
        yield cpu_lease()


def cpu_lease() -> Lease:
    """Return the lease of a job that sees no GPU. All such jobs have the same variables, so one server forks them."""
    return Lease("cpu", {"CUDA_VISIBLE_DEVICES": ""})


def _try_cpu(folder: Path, place: PlaceInLine, job: str) -> _Locked | _Obstacle:
    """Lock the CPU slot."""
    place.enter([CPU])
    lock = FileLock(folder / CPU, job)
    ahead = place.ahead(CPU)
    if ahead == 0 and lock.try_acquire():
        return _Locked(locks=[lock])
    return _Obstacle(f"the CPU slot is in use by {lock.holder()}{_describe_line(ahead)}")


def _why_no_gpu(problems: list[str]) -> str:
    """CUDA_VISIBLE_DEVICES, or the driver's message."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is not None and setting.strip() in NO_GPU:
        return f"CUDA_VISIBLE_DEVICES={setting!r} allows none"
    return problems[0] if problems else "nvidia-smi shows none"


@contextlib.contextmanager
def _lease_gpus(need: DeviceNeed, gpus: list[Gpu], log: Callable[[str], None], job: str) -> Iterator[Lease]:
    _require_large_gpus(need, gpus)
    attempts = _GpuAttempts(need, job, gpus)
    with _wait(attempts.lock, PlaceInLine(lock_folder(), job), log) as locked:
        visible = ",".join(gpu.uuid for gpu in locked.gpus)
        yield Lease("cuda:0", {"CUDA_VISIBLE_DEVICES": visible}, tuple(gpu.name for gpu in locked.gpus))


def _require_large_gpus(need: DeviceNeed, gpus: list[Gpu]) -> None:
    """Raise UserError if there are fewer GPUs of the required size than are needed, in use or not."""
    large = [gpu for gpu in gpus if gpu.has_total(need.min_memory_gb)]
    if len(large) < need.count:
        present = ", ".join(f"{gpu.name} {gpu.total_bytes / 1e9:.0f} GB" for gpu in gpus)
        raise UserError(
            f"The experiment needs {need}, but this machine has {present}. "
            "Lower gpu.count or gpu.min_memory_gb, or run it on another machine."
        )


@contextlib.contextmanager
def _wait(
    attempt: Callable[[PlaceInLine], _Locked | _Obstacle], place: PlaceInLine, log: Callable[[str], None]
) -> Iterator[_Locked]:
    """Attempt until it succeeds, and hold what was locked for a `with` block. Nothing is locked during the wait.

    An obstacle with a fix concerns this job only, so it lets the others go ahead meanwhile.
    """
    try:
        logged, since = "", time.monotonic()
        while isinstance(result := attempt(place), _Obstacle):
            if not result.fix:
                since = time.monotonic()
            else:
                place.leave()
                if time.monotonic() - since > OBSTACLE_TIMEOUT:
                    raise UserError(f"{result.message}. {result.fix}")
            if result.message != logged:
                log(f"waiting: {result.message}")
                logged = result.message
            time.sleep(POLL_SECONDS)
    finally:
        place.leave()
    try:
        yield result
    finally:
        result.release()


class _GpuAttempts:
    """Attempts of one job to lock its GPUs."""

    def __init__(self, need: DeviceNeed, job: str, gpus: list[Gpu]) -> None:
        self.need = need
        self.job = job
        self.known = gpus
        """The GPUs as nvidia-smi showed them last."""

    def lock(self, place: PlaceInLine) -> _Locked | _Obstacle:
        """Lock as many GPUs as are needed, those with the most free memory first; if that is impossible, lock none."""
        place.enter(gpu.uuid for gpu in self._large())
        if (obstacle := self._in_use(place)) is not None:
            return obstacle
        self.known = visible_gpus()  # only now, because nvidia-smi takes more time than a try
        if not self.known:
            fix = "Find the cause with nvidia-smi, repair the driver, and run again."
            return _Obstacle("nvidia-smi no longer shows a GPU", fix)
        return self._lock_free(place)

    def _large(self) -> list[Gpu]:
        """Of the known GPUs those of the required size, with the most free memory first."""
        large = [gpu for gpu in self.known if gpu.has_total(self.need.min_memory_gb)]
        return sorted(large, key=lambda gpu: -gpu.free_bytes)

    def _in_use(self, place: PlaceInLine) -> _Obstacle | None:
        """The obstacle that too few of the known GPUs are free for this job."""
        taken = [gpu for gpu in self._large() if place.ahead(gpu.uuid) or is_held(lock_folder() / gpu.uuid)]
        if len(self._large()) - len(taken) >= self.need.count or not taken:
            return None
        return self._describe_use(taken[0], place)

    def _describe_use(self, gpu: Gpu, place: PlaceInLine) -> _Obstacle:
        holder = FileLock(lock_folder() / gpu.uuid, self.job).holder()
        return _Obstacle(f"GPU {gpu.index} is in use by {holder}{_describe_line(place.ahead(gpu.uuid))}")

    def _lock_free(self, place: PlaceInLine) -> _Locked | _Obstacle:
        locked = _Locked()
        obstacle: _Obstacle | None = None
        for gpu in self._large():
            if len(locked.gpus) == self.need.count:
                break
            lock = FileLock(lock_folder() / gpu.uuid, self.job)
            if place.ahead(gpu.uuid) or not lock.try_acquire():
                obstacle = obstacle or self._describe_use(gpu, place)
            elif not gpu.has_free(self.need.min_memory_gb):
                lock.release()
                obstacle = _memory_in_use(gpu, self.need)
            else:
                locked.gpus.append(gpu)
                locked.locks.append(lock)
        if len(locked.gpus) == self.need.count:
            return locked
        locked.release()
        shown = len(self._large())
        return obstacle or _Obstacle(f"this step needs {self.need}, but nvidia-smi now shows only {shown}")


def _describe_line(ahead: int) -> str:
    """`, and 2 jobs are ahead in the line`."""
    return f", and {ahead} job{'s are' if ahead > 1 else ' is'} ahead in the line" if ahead else ""


def _memory_in_use(gpu: Gpu, need: DeviceNeed) -> _Obstacle:
    """The obstacle that a process without a lease uses the memory of a GPU."""
    return _Obstacle(
        f"GPU {gpu.index} has {gpu.free_bytes / 1e9:.1f} GB free, but {need.min_memory_gb:g} GB are required",
        "Find the cause with nvidia-smi and stop the process that uses the memory, or lower gpu.min_memory_gb.",
    )


def lock_folder() -> Path:
    """The folder of GPU locks that all projects of this user on this machine share."""
    setting = os.environ.get("FT_LEASE_DIR")
    return Path(setting) if setting else Path(tempfile.gettempdir()) / f"ft_pipeline-devices-{os.getuid()}"
