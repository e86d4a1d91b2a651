"""Represents a worker in a SLURM job: `python -m ft_pipeline.clusters.slurm_agent JOB_JSON`.

Submits the job, and follows it until it ends (cluster_agent.py). submitit writes the job's script, submits and cancels
it. The script runs a command; submitit's own way, a function that is pickled to the shared disk, is not used. The
status comes from squeue, because submitit asks sacct, which needs a cluster with accounting.
"""

import contextlib
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ft_pipeline.clusters import cluster_agent
from ft_pipeline.clusters.cluster_agent import NODE_MODULE, JobEnd, JobMonitor, run_agent, started_host
from ft_pipeline.clusters.cluster_node import TIME_LIMIT_SIGNAL
from ft_pipeline.errors import UserError, first_line, require_extra
from ft_pipeline.execution.workers import worker
from ft_pipeline.execution.workers.message_channels import NOTES_FILE

LOST_STATUSES = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")
"""SLURM's statuses of a job whose machine it took away, and which it does not start again by itself."""
MAX_SIGNAL_SECONDS = 90
"""Seconds before the time limit at which SLURM asks a job to stop, at most: a training saves a checkpoint."""
COMMAND_TIMEOUT = 60.0
"""Seconds; a busy controller answers late."""


class _SlurmJob(JobMonitor):
    """A job in SLURM. Notes in the run's log when it waits, and when it starts."""

    final_statuses = (*LOST_STATUSES, "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT")
    status_seconds = 5.0  # one controller answers all users of the cluster

    def __init__(self, job: Any, folder: Path) -> None:
        self.id = job.job_id
        self._job, self._notes = job, folder / NOTES_FILE
        self._noted, self._queued_since = "", time.monotonic()
        super().__init__()

    def query(self) -> tuple[str, str]:
        command = ["squeue", "--noheader", "--states=all", f"--jobs={self.id}", "--format=%T|%r|%N"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
        if answer.returncode != 0 or not answer.stdout.strip():
            raise RuntimeError(answer.stderr.strip() or f"squeue shows no job {self.id}")
        status, reason, nodes = answer.stdout.strip().splitlines()[0].split("|")
        self._note_change(status, reason, nodes)
        return status, reason

    def cancel(self) -> None:
        self._job.cancel(check=False)

    def _note_change(self, status: str, reason: str, nodes: str) -> None:
        if self._noted.startswith("RUNNING") and status == "PENDING":
            self._queued_since = time.monotonic()  # SLURM took its node away, and starts it again
        state = f"{status} {reason if status == 'PENDING' else ''}"
        if state == self._noted:
            return
        self._noted = state
        if status == "PENDING":
            self._note(f"SLURM job {self.id} waits in the queue (reason: {reason})")
        elif status == "RUNNING":
            seconds = time.monotonic() - self._queued_since
            self._note(f"SLURM job {self.id} runs on {nodes}, after {seconds:.0f} s in the queue")

    def _note(self, message: str) -> None:
        cluster_agent.log(message)
        line = json.dumps({"type": "log", "message": message})
        with contextlib.suppress(OSError), self._notes.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def _submit(job_file: Path, order: dict[str, Any]) -> JobMonitor:
    """Submit the job. Raises UserError without SLURM, or if it does not accept the job."""
    require_extra("slurm", "FT_LAUNCHER=slurm needs", "submitit")
    from submitit import SlurmExecutor

    kind = json.loads(job_file.read_text(encoding="utf-8"))["kind"]
    folder = job_file.parent / "slurm"
    folder.mkdir(exist_ok=True)
    try:
        executor = SlurmExecutor(folder)
        executor.update_parameters(**_parameters(kind, order))
        job = executor._submit_command(shlex.join([order["python"], "-P", "-m", NODE_MODULE, str(job_file)]))
    except Exception as error:  # no srun, or what sbatch says
        raise UserError(
            f"SLURM did not accept the job: {_describe(error)}. Correct `machine` in the experiment or in "
            "project.yaml, or run it where sbatch works."
        ) from error
    cluster_agent.log(f"submitted to SLURM as job {job.job_id}")
    return _SlurmJob(job, job_file.parent)


def _parameters(kind: str, order: dict[str, Any]) -> dict[str, Any]:
    """Return submitit's names of what the job requests. None leaves an option to the cluster's default."""
    machine = order["machine"]
    minutes = None if machine["max_hours"] is None else max(1, math.ceil(machine["max_hours"] * 60))
    memory = None if machine["memory_gb"] is None else f"{math.ceil(machine['memory_gb'] * 1e9 / 2**20)}M"
    return {
        "job_name": f"ft-{kind}",
        "time": minutes,
        "mem": memory,
        "cpus_per_task": machine["cpus"],
        "gpus_per_node": order["gpus"] or None,
        # srun does not take it from sbatch
        "srun_args": None if machine["cpus"] is None else [f"--cpus-per-task={machine['cpus']}"],
        "signal_delay_s": MAX_SIGNAL_SECONDS if minutes is None else min(MAX_SIGNAL_SECONDS, minutes * 20),
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": {"requeue": True, **machine["slurm"]},
    }


def _describe(error: Exception) -> str:
    """What sbatch says, without its usage."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next((line for line in lines if line.startswith("sbatch:")), None)
    return (said or first_line(error)).rstrip(".")


def _report_end(job_file: Path, monitor: JobMonitor, end: JobEnd) -> int:
    """Write the error of a job that SLURM ended; return the exit code of this process."""
    assert isinstance(monitor, _SlurmJob)
    with contextlib.suppress(OSError):  # if SLURM would start it again, or a controller that did not answer has it
        monitor.cancel()
    status, name = monitor.status, f"SLURM job {monitor.id}"
    if status == "TIMEOUT" or end.signal == TIME_LIMIT_SIGNAL.name:
        message = f"{name} reached its time limit. Raise machine.max_hours, or run again to resume from its checkpoint."
        return worker.report_user_error(job_file, message)
    if status == "OUT_OF_MEMORY":
        return worker.report_user_error(
            job_file, f"{name} used more memory than it requested. Raise machine.memory_gb."
        )
    if status == "CANCELLED":
        message = f"{name} was canceled in SLURM. Run again to resume from its last checkpoint."
        return worker.report_user_error(job_file, message)
    if status in LOST_STATUSES or monitor.head_is_lost:
        reason = f"no answer: {monitor.message}" if monitor.head_is_lost else status
        message = f"{name} lost its machine ({reason}). Run again to resume from its last checkpoint."
        return worker.report_error(job_file, message, worker.LOST)
    host = started_host(job_file.parent)
    where = f"on {host}" if host else "before the worker started"
    message = f"{name} ended without a result {where} ({status}){_last_output(job_file.parent)}"
    return worker.report_error(job_file, message, end.code or 1)


def _last_output(folder: Path) -> str:
    """The last line that the job wrote besides the worker's log, such as that of srun; empty without one."""
    lines = [line for path in (folder / "slurm").glob("*_log.out") for line in path.read_text("utf-8").splitlines()]
    return f": {lines[-1]}" if lines else ""


if __name__ == "__main__":
    sys.exit(run_agent(sys.argv[1:], _submit, _report_end))
