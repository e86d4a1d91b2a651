"""Launchers of workers on a cluster. FT_LAUNCHER=ray or slurm selects one (extras `ray`, `slurm`)."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ft_pipeline.clusters.cluster_node import ORDER_FILE
from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.device_leases import DeviceNeed, Lease
from ft_pipeline.execution.workers.heartbeat import DEFAULT_PATIENCE
from ft_pipeline.execution.workers.launchers import (
    MULTI_PROCESS_KINDS,
    RANK_LAUNCHER_MODULE,
    WORKER_MODULE,
    LocalLauncher,
    WorkerProcess,
    process_variables,
    variables_with_values,
    whole_number,
)
from ft_pipeline.models import compute_setting
from ft_pipeline.settings.machine import MachineSettings

RAY_AGENT_MODULE = "ft_pipeline.clusters.ray_agent"
SLURM_AGENT_MODULE = "ft_pipeline.clusters.slurm_agent"
RAY_GPUS = "FT_RAY_GPUS"
"""GPUs that a job requests from Ray; by default what the experiment declares. 0 for a cluster without GPUs."""
RAY_CPUS = "FT_RAY_CPUS"
"""CPUs that a job requests from Ray, and threads that it uses; by default 1."""
RAY_PYTHON = "FT_RAY_PYTHON"
"""Path of Python on the nodes; by default the path of this Python."""
RAY_PATIENCE = "FT_RAY_PATIENCE"
"""Seconds without a heartbeat after which a worker on a node stops; by default 30."""
SLURM_GPUS = "FT_SLURM_GPUS"
"""GPUs that a SLURM job requests; by default what the experiment declares. 0 for a cluster without GPUs."""
SLURM_PYTHON = "FT_SLURM_PYTHON"
"""Path of Python on the nodes; by default the path of this Python."""
SLURM_PATIENCE = "FT_SLURM_PATIENCE"
"""Seconds without a heartbeat after which a worker on a node stops; by default 30."""


def ray_launcher(kind: str, need: DeviceNeed) -> "RayLauncher":
    """Return the launcher of a job on a Ray cluster. Raises UserError if the cluster has no GPU for it."""
    return RayLauncher(*_gpus_and_entry(kind, need, RAY_GPUS))


def slurm_launcher(kind: str, need: DeviceNeed) -> "SlurmLauncher":
    """Return the launcher of a SLURM job. Raises UserError if the cluster has no GPU for it."""
    gpus, entry = _gpus_and_entry(kind, need, SLURM_GPUS)
    return SlurmLauncher(gpus, need.machine, entry)


def _gpus_and_entry(kind: str, need: DeviceNeed, variable: str) -> tuple[int, str]:
    """Return the GPUs that a job requests, and the module that it runs. variable: names the GPUs of the cluster."""
    gpus = whole_number(variable, need.count, minimum=0)
    if need.required and not gpus:
        raise UserError(
            f"The experiment sets `gpu`: this step needs {need}, but {variable} is 0. Remove `gpu` from the "
            f"experiment to run it on the CPU, or unset {variable}."
        )
    has_ranks = kind in MULTI_PROCESS_KINDS and (gpus > 1 or bool(process_variables()))
    return gpus, RANK_LAUNCHER_MODULE if has_ranks else WORKER_MODULE


@dataclass(frozen=True)
class RayLauncher:
    """A job on a Ray cluster, whose nodes have this package and the project's folder under the same paths.

    A process on this machine represents it (ray_agent.py).
    """

    gpus: int = 0
    entry: str = WORKER_MODULE

    @property
    def lease(self) -> Lease:
        """Ray chooses the node, and shows the worker only the GPUs that it requested."""
        return Lease("cuda:0" if self.gpus else "cpu", gpu_names=("of the Ray cluster",) * self.gpus)

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> WorkerProcess:
        order = {
            **_order(self.entry, env, whole_number(RAY_CPUS, 1, minimum=1), RAY_PYTHON, RAY_PATIENCE),
            "gpus": self.gpus,
        }
        return _start_agent(RAY_AGENT_MODULE, ["RAY_*"], job_file, order, env=env, lifeline=lifeline, log=log)


@dataclass(frozen=True)
class SlurmLauncher:
    """A SLURM job on a cluster, whose nodes have this package and the project's folder under the same paths.

    A process on this machine represents it (slurm_agent.py).
    """

    gpus: int = 0
    machine: MachineSettings = field(default_factory=MachineSettings)
    entry: str = WORKER_MODULE

    @property
    def lease(self) -> Lease:
        """SLURM chooses the node, and shows the worker only the GPUs that it requested."""
        return Lease("cuda:0" if self.gpus else "cpu", gpu_names=("of the SLURM cluster",) * self.gpus)

    def start(self, job_file: Path, *, env: Mapping[str, str], lifeline: int, log: BinaryIO) -> WorkerProcess:
        order = {
            **_order(self.entry, env, self.machine.cpus or 1, SLURM_PYTHON, SLURM_PATIENCE),
            "gpus": self.gpus,
            "machine": self.machine.model_dump(mode="json"),
        }
        return _start_agent(
            SLURM_AGENT_MODULE, ["SLURM_*", "SBATCH_*"], job_file, order, env=env, lifeline=lifeline, log=log
        )


def _order(entry: str, env: Mapping[str, str], cpus: int, python: str, patience: str) -> dict[str, Any]:
    """What a node starts. python, patience: names of environment variables."""
    variables = {**process_variables(), **variables_with_values(compute_setting.COMPUTE_DTYPE_VARIABLE)}
    return {
        "entry": entry,
        "env": {**env, **variables, "OMP_NUM_THREADS": str(cpus)},
        "cpus": cpus,
        "python": os.environ.get(python) or sys.executable,
        "patience": float(whole_number(patience, int(DEFAULT_PATIENCE), minimum=1)),
    }


def _start_agent(
    module: str,
    variables: Sequence[str],
    job_file: Path,
    order: dict[str, Any],
    *,
    env: Mapping[str, str],
    lifeline: int,
    log: BinaryIO,
) -> WorkerProcess:
    """Start the process that represents a worker on a cluster. variables: of the cluster's client."""
    (job_file.parent / ORDER_FILE).write_text(json.dumps(order), encoding="utf-8")
    launcher = LocalLauncher(module, variables=tuple(variables))
    return launcher.start(job_file, env=env, lifeline=lifeline, log=log)
