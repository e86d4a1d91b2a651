"""How a worker process is started. Launchers share one interface, so that the worker is the same wherever it runs.

The deployment selects the launcher: FT_LAUNCHER is `local`, `accelerate`, or that of a feature (clusters/). If it is
not set, a training on several GPUs uses `accelerate`, and everything else `local`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers import fork_server, process_guard
from ft_pipeline.execution.workers.accelerate_config import ACCELERATE_CONFIG, NUM_PROCESSES
from ft_pipeline.execution.workers.device_leases import DeviceNeed, Lease
from ft_pipeline.execution.workers.stall_watch import stall_seconds
from ft_pipeline.execution.workers.worker_variables import allowed_variables, check_operator_patterns
from ft_pipeline.features import choice, names_in
from ft_pipeline.models import compute_setting
from ft_pipeline.project import project_folder

WORKER_MODULE = "ft_pipeline.execution.workers.worker"
RANK_LAUNCHER_MODULE = "ft_pipeline.execution.workers.rank_launcher"
LAUNCHER = "FT_LAUNCHER"
"""Environment variable: the name of a launcher."""
HERE = ("local", "accelerate")
"""Launchers on this machine. Features add others (features.TABLES)."""
MULTI_PROCESS_KINDS = ("adapter",)
"""Kinds of jobs that several processes can run together."""
RANK_ENTRY = "FT_RANK_ENTRY"
"""Environment variable: the module that each of several processes runs."""
CPU_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time per period, and the period, for the container's control group (cgroup v2)."""


class WorkerProcess(Protocol):
    """What the supervisor uses of subprocess.Popen."""

    pid: int
    returncode: Any

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Launcher(Protocol):
    """Starts a worker as the leader of a new process group."""

    @property
    def lease(self) -> Lease | None:
        """The devices of a worker that runs elsewhere; None: devices are leased on this machine."""
        ...

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> WorkerProcess:
        """Start the worker of `job_file`.

        env: added to the environment.
        lifeline: an end of a pipe whose other end closes when this process ends (process_guard.py).
        log: receives stdout and stderr.
        """
        ...


@dataclass(frozen=True)
class LocalLauncher:
    """A process on this machine, with this Python."""

    entry: str = WORKER_MODULE
    """The module that is run."""
    lease: None = None
    variables: tuple[str, ...] = ()
    """Names or patterns of variables that the module gets besides those of every worker (worker_variables.py)."""
    forks: bool | None = False
    """Whether workers on the CPU are forks of a process that has imported the libraries of models (fork_server.py).
    None: they are if such a process runs. To start one costs more than such a worker does."""

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> WorkerProcess:
        job = json.loads(job_file.read_text(encoding="utf-8"))
        inherited = allowed_variables(worker_environment(), (*self.variables, *job.get("variables", ())))
        whole = {**inherited, **env}
        forks = fork_server.is_running(whole) if self.forks is None else self.forks
        if forks and fork_server.is_possible(job["device"]):
            return fork_server.start(self.entry, job_file, whole, lifeline, log)
        # -P: the current folder may contain a user's `datasets`, which must not shadow the package.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self.entry, str(job_file)],
            env={**whole, process_guard.LIFELINE: str(lifeline)},
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

    entry: str = WORKER_MODULE
    lease: None = None

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> WorkerProcess:
        env = {**env, RANK_ENTRY: self.entry}
        return LocalLauncher(RANK_LAUNCHER_MODULE).start(job_file, env=env, lifeline=lifeline, log=log)


def check_environment() -> None:
    """Raise UserError if an environment variable that applies to every worker has an invalid value."""
    _requested_launcher()
    check_operator_patterns()
    stall_seconds()
    compute_setting.requested_dtype()


def launcher_for(kind: str, need: DeviceNeed | None) -> Launcher:
    """Return the deployment's launcher for a kind of job that needs a device, or none (`need` is None).

    Raises UserError if FT_LAUNCHER names no launcher, or one that cannot train on the GPUs that the job needs.
    A job without a device runs on this machine even with a cluster: it is light, or calls an endpoint with a local key.
    """
    requested = _requested_launcher()
    elsewhere = choice("launcher", requested) if requested and need is not None else None
    if elsewhere is not None:
        return elsewhere(kind, need)
    here = LocalLauncher(forks=None if need is None else True)  # a job that needs a device has a model
    if kind not in MULTI_PROCESS_KINDS:
        return here
    gpus = need.count if need is not None else 1
    # In one process that sees several GPUs, transformers would use DataParallel. Each GPU gets a process instead.
    if gpus > 1 and requested == "local":
        raise UserError(f"gpu.count is {gpus}, but {LAUNCHER}=local trains on one GPU. Set {LAUNCHER}=accelerate.")
    return AccelerateLauncher() if gpus > 1 or requested == "accelerate" else here


def _requested_launcher() -> str | None:
    """The value of FT_LAUNCHER; None if it is not set. Raises UserError for an unknown launcher."""
    requested = os.environ.get(LAUNCHER) or None
    names = [*HERE, *names_in("launcher")]
    if requested is not None and requested not in names:
        raise UserError(
            f"{LAUNCHER}={requested!r} is not a launcher. Set it to {', '.join(names[:-1])} or {names[-1]}."
        )
    return requested


def process_variables() -> dict[str, str]:
    """The variables that are set of those that configure the processes of a training."""
    return variables_with_values(NUM_PROCESSES, ACCELERATE_CONFIG)


def variables_with_values(*names: str) -> dict[str, str]:
    """The environment variables of `names` that are set and not empty."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def whole_number(name: str, default: int, *, minimum: int) -> int:
    """The value of the environment variable `name`. Raises UserError if it is invalid."""
    text = os.environ.get(name)
    if text and not (text.isdecimal() and int(text) >= minimum):
        raise UserError(
            f"{name}={text!r} is not a whole number of at least {minimum}. Correct it, or unset it to use {default}."
        )
    return int(text) if text else default


def worker_environment() -> dict[str, str]:
    """Return the environment of this process, with defaults for what the user has not set."""
    defaults = {
        "OMP_NUM_THREADS": str(usable_cores()),
        "MALLOC_ARENA_MAX": "2",  # glibc's arena per thread keeps gigabytes that torch freed
        "TOKENIZERS_PARALLELISM": "false",  # it deadlocks in forked data loaders
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    return defaults | os.environ | {"FT_PROJECT": str(project_folder().resolve())}


def usable_cores() -> int:
    """Return the number of cores that this process may use: its affinity, or less if a container has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA_FILE.read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores
