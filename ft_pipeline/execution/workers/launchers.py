"""How a worker process is started. Launchers share one interface, so that the worker is the same wherever it runs.

The deployment selects the launcher: FT_LAUNCHER is `local`, `accelerate` or `ray` (extra `ray`). If it is not set, a
training on several GPUs uses `accelerate`, and everything else `local`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers import process_guard
from ft_pipeline.execution.workers.accelerate_config import CONFIG, COUNT
from ft_pipeline.execution.workers.devices import DeviceNeed, Lease
from ft_pipeline.execution.workers.heartbeat import PATIENCE
from ft_pipeline.models import compute_setting

WORKER = "ft_pipeline.execution.workers.worker"
RANKS = "ft_pipeline.execution.workers.rank_launcher"
RAY_AGENT = "ft_pipeline.execution.workers.ray_agent"
CHOICE = "FT_LAUNCHER"
LAUNCHERS = ("local", "accelerate", "ray")
TRAINING = ("adapter",)
"""Kinds of jobs that several processes can run together."""
ENTRY = "FT_RANK_ENTRY"
"""Environment variable: the module that each of several processes runs."""
RAY_GPUS = "FT_RAY_GPUS"
"""GPUs that a job requests from Ray; by default what the experiment declares. 0 for a cluster without GPUs."""
RAY_CPUS = "FT_RAY_CPUS"
"""CPUs that a job requests from Ray, and threads that it uses; by default 1."""
RAY_PYTHON = "FT_RAY_PYTHON"
"""Path of Python on the nodes; by default the path of this Python."""
RAY_PATIENCE = "FT_RAY_PATIENCE"
"""Seconds without a heartbeat after which a worker and the process waiting for it consider each other gone."""
ORDER = "order.json"
"""File next to a job that goes to Ray: what to start for it."""
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Launcher(Protocol):
    """Starts a worker as the leader of a new process group."""

    @property
    def lease(self) -> Lease | None:
        """The devices of a worker that runs elsewhere; None: devices are leased on this machine."""
        ...

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> subprocess.Popen[bytes]:
        """Start the worker of `job_file`.

        env: added to the environment.
        lifeline: a file descriptor that is closed when this process ends (process_guard.py).
        log: receives stdout and stderr.
        """
        ...


@dataclass(frozen=True)
class LocalLauncher:
    """A process on this machine, with this Python."""

    entry: str = WORKER
    """The module that is run."""
    lease: None = None

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> subprocess.Popen[bytes]:
        # -P: the current folder may contain a user's `datasets`, which must not shadow the package.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self.entry, str(job_file)],
            env={**worker_environment(), **env, process_guard.LIFELINE: str(lifeline)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lifeline,),
            start_new_session=True,
        )


@dataclass(frozen=True)
class AccelerateLauncher:
    """Several processes on this machine that train together (rank_launcher.py).

    FT_NUM_PROCESSES and FT_ACCELERATE_CONFIG set their number. With one process it is the same as LocalLauncher.
    """

    entry: str = WORKER
    lease: None = None

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> subprocess.Popen[bytes]:
        env = {**env, ENTRY: self.entry}
        return LocalLauncher(RANKS).start(job_file, env=env, lifeline=lifeline, log=log)


@dataclass(frozen=True)
class RayLauncher:
    """A job on a Ray cluster, whose nodes have this package and the project's folder under the same paths.

    A process on this machine represents it (ray_agent.py).
    """

    gpus: int = 0
    entry: str = WORKER

    @property
    def lease(self) -> Lease:
        """Ray places the worker, and shows it only the worker's own GPUs."""
        return Lease("cuda:0" if self.gpus else "cpu", names=("of the Ray cluster",) * self.gpus)

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> subprocess.Popen[bytes]:
        cpus = _number(RAY_CPUS, 1, least=1)
        order = {
            "entry": self.entry,
            "env": {
                **env,
                **_processes(),
                **_set(compute_setting.COMPUTE_DTYPE_VARIABLE),
                "OMP_NUM_THREADS": str(cpus),
            },
            "gpus": self.gpus,
            "cpus": cpus,
            "python": os.environ.get(RAY_PYTHON) or sys.executable,
            "patience": float(_number(RAY_PATIENCE, int(PATIENCE), least=1)),
        }
        (job_file.parent / ORDER).write_text(json.dumps(order), encoding="utf-8")
        return LocalLauncher(RAY_AGENT).start(job_file, env=env, lifeline=lifeline, log=log)


def check_environment() -> None:
    """Raise UserError if an environment variable that every worker reads has an invalid value."""
    _chosen()
    compute_setting.requested_dtype()


def launcher_for(kind: str, need: DeviceNeed | None) -> Launcher:
    """Return the deployment's launcher for a kind of job that needs a device, or none (`need` is None).

    Raises UserError if FT_LAUNCHER names no launcher, or one that cannot train on the GPUs that the job needs.
    A job without a device runs on this machine even under Ray: it is light, or calls an endpoint with a local key.
    """
    chosen = _chosen()
    if chosen == "ray" and need is not None:
        gpus = _number(RAY_GPUS, need.count, least=0)
        return RayLauncher(gpus, RANKS if kind in TRAINING and (gpus > 1 or _processes()) else WORKER)
    if kind not in TRAINING:
        return LocalLauncher()
    # One process that sees several GPUs would wrap the model in DataParallel, which TRL refuses.
    gpus = need.count if need is not None else 1
    if gpus > 1 and chosen == "local":
        raise UserError(f"gpu.count is {gpus}, but {CHOICE}=local trains on one GPU. Set {CHOICE}=accelerate.")
    return AccelerateLauncher() if gpus > 1 or chosen == "accelerate" else LocalLauncher()


def _chosen() -> str | None:
    """The value of FT_LAUNCHER; None if it is not set. Raises UserError for an unknown launcher."""
    chosen = os.environ.get(CHOICE) or None
    if chosen is not None and chosen not in LAUNCHERS:
        raise UserError(f"{CHOICE}={chosen!r} is not a launcher. Set it to local, accelerate or ray.")
    return chosen


def _processes() -> dict[str, str]:
    """The environment variables that configure the processes of a training."""
    return _set(COUNT, CONFIG)


def _set(*names: str) -> dict[str, str]:
    """The environment variables of `names` that have a value."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _number(name: str, default: int, *, least: int) -> int:
    given = os.environ.get(name)
    if given and not (given.isdecimal() and int(given) >= least):
        raise UserError(
            f"{name}={given!r} is not a whole number of at least {least}. Correct it, or unset it to use {default}."
        )
    return int(given) if given else default


def worker_environment() -> dict[str, str]:
    """Return this environment, plus defaults. The user's own values take precedence."""
    defaults = {
        "OMP_NUM_THREADS": str(usable_cores()),
        "MALLOC_ARENA_MAX": "2",  # glibc's arena per thread keeps gigabytes that torch freed
        "TOKENIZERS_PARALLELISM": "false",  # it deadlocks in forked data loaders
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    return defaults | os.environ


def usable_cores() -> int:
    """Return the number of cores that this process may use: its affinity, or less if a container has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores
