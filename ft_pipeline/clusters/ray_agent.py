"""Represents a worker on a Ray cluster: `python -m ft_pipeline.clusters.ray_agent JOB_JSON`.

Submits the job, and follows it until it ends (cluster_agent.py).
"""

import json
import os
import shlex
import sys
import uuid
from pathlib import Path
from typing import Any

from ft_pipeline.clusters import cluster_agent
from ft_pipeline.clusters.cluster_agent import NODE_MODULE, JobEnd, JobMonitor, run_agent, started_host
from ft_pipeline.errors import UserError, first_line, require_extra
from ft_pipeline.execution.workers import worker

RAY_ADDRESS = "RAY_ADDRESS"
"""Ray's environment variable: the address of its dashboard, which accepts jobs."""
DEFAULT_RAY_ADDRESS = "http://127.0.0.1:8265"
MAX_MESSAGE_CHARACTERS = 300
"""Maximum characters of Ray's message."""


class _RayJob(JobMonitor):
    final_statuses = ("SUCCEEDED", "FAILED", "STOPPED")

    def __init__(self, client: Any, job_id: str) -> None:
        self._client, self._job_id = client, job_id
        super().__init__()

    def query(self) -> tuple[str, str]:
        info = self._client.get_job_info(self._job_id)
        return str(info.status), info.message or ""

    def cancel(self) -> None:
        self._client.stop_job(self._job_id)


def _submit(job_file: Path, order: dict[str, Any]) -> JobMonitor:
    """Submit the job. Raises UserError without Ray, or if no cluster answers."""
    require_extra("ray", "FT_LAUNCHER=ray needs", "ray")
    from ray.job_submission import JobSubmissionClient

    address = os.environ.get(RAY_ADDRESS) or DEFAULT_RAY_ADDRESS
    kind = json.loads(job_file.read_text(encoding="utf-8"))["kind"]
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint="exec " + shlex.join([order["python"], "-P", "-m", NODE_MODULE, str(job_file)]),
            submission_id=f"ft-{kind}-{uuid.uuid4().hex[:12]}",
            metadata={"kind": kind, "folder": str(job_file.parent)},
            entrypoint_num_cpus=order["cpus"],
            entrypoint_num_gpus=order["gpus"] or None,
        )
    except Exception as error:  # the library raises many types for a refused connection
        raise UserError(
            f"The Ray cluster at {address} did not accept the job: {first_line(error)}. Start it, or set "
            f"{RAY_ADDRESS} to the address of its dashboard."
        ) from error
    cluster_agent.log(f"submitted to Ray as {job_id}")
    return _RayJob(client, job_id)


def _report_end(job_file: Path, monitor: JobMonitor, end: JobEnd) -> int:
    """Write the error of a job that ended without the worker's exit code; return the exit code of this process."""
    if end.code is not None:
        return end.code
    reason = " ".join(monitor.message.split()) or "no reason given"
    if len(reason) > MAX_MESSAGE_CHARACTERS:
        reason = f"… {reason[-MAX_MESSAGE_CHARACTERS:]}"  # the error is at the end of a log
    if monitor.head_is_lost:
        reason = f"no status of the job for {cluster_agent.HEAD_TIMEOUT:.0f} s: {reason}"
    host = started_host(job_file.parent)
    if host is not None:
        lost_part = "the head of the Ray cluster" if monitor.head_is_lost else f"the worker's Ray node ({host})"
        message = f"{lost_part} is gone. Run again to resume from the last checkpoint. Ray reports: {reason}"
    else:
        message = f"Ray could not start the worker: {reason}"
    return worker.report_error(job_file, message, 1)


if __name__ == "__main__":
    sys.exit(run_agent(sys.argv[1:], _submit, _report_end))
