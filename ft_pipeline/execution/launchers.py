"""How a worker process is started. One seam, so that another place to run it needs no other worker.

Which one is the deployment's choice: FT_LAUNCHER is `local` (the default) or `accelerate`.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ft_pipeline.errors import UserError

WORKER = "ft_pipeline.execution.worker"
RANKS = "ft_pipeline.execution.ranks"
CHOICE = "FT_LAUNCHER"
TRAINING = ("adapter",)
"""Kinds of jobs that several processes can do together."""
ENTRY = "FT_RANK_ENTRY"
"""Environment variable: the module that each of several processes runs."""
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Launcher(Protocol):
    """Starts a worker at the head of a process group of its own."""

    def start(
        self, job_file: Path, *, env: Mapping[str, str], pass_fds: Sequence[int], log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        """env: added to the environment; pass_fds: file descriptors it inherits; log: takes its stdout and stderr."""
        ...


@dataclass(frozen=True)
class LocalLauncher:
    """A process on this machine, with this Python."""

    entry: str = WORKER
    """The module that is run."""

    def start(
        self, job_file: Path, *, env: Mapping[str, str], pass_fds: Sequence[int], log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        # -P: the current folder may hold a `datasets` of the user's, which must not shadow the package.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self.entry, str(job_file)],
            env=worker_environment() | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )


@dataclass(frozen=True)
class AccelerateLauncher:
    """Several processes on this machine that train together (ranks.py), as FT_NUM_PROCESSES and FT_ACCELERATE_CONFIG
    say; where that is one, it is the same as LocalLauncher."""

    entry: str = WORKER

    def start(
        self, job_file: Path, *, env: Mapping[str, str], pass_fds: Sequence[int], log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        env = {**env, ENTRY: self.entry}
        return LocalLauncher(RANKS).start(job_file, env=env, pass_fds=pass_fds, log=log)


def launcher_for(kind: str) -> Launcher:
    """The deployment's launcher for a kind of job. UserError where FT_LAUNCHER names none."""
    chosen = os.environ.get(CHOICE) or "local"
    if chosen not in ("local", "accelerate"):
        raise UserError(f"{CHOICE}={chosen!r} is no launcher; set local or accelerate")
    return AccelerateLauncher() if chosen == "accelerate" and kind in TRAINING else LocalLauncher()


def worker_environment() -> dict[str, str]:
    """This environment, plus defaults that a user's own values win over."""
    defaults = {
        "OMP_NUM_THREADS": str(usable_cores()),
        "MALLOC_ARENA_MAX": "2",  # glibc's arena per thread holds on to gigabytes that torch gave back
        "TOKENIZERS_PARALLELISM": "false",  # it deadlocks in forked data loaders
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    return defaults | os.environ


def usable_cores() -> int:
    """Cores that this process may use: its affinity, or less where a container has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores
