"""Two processes over gloo that train some jobs together, one after the other: `run_two_ranks(cases)`."""

import json
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

from ft_pipeline.execution.workers.accelerate_config import Processes
from ft_pipeline.execution.workers.rank_launcher import rank_environment
from ft_pipeline.execution.workers.worker import own_rank
from ft_pipeline.job import Job
from ft_pipeline.training import adapter
from ft_pipeline_tests.training.subject import Listener

TIMEOUT_S = 600


def run_two_ranks(jobs: Mapping[str, Job], folder: Path, *, sharded: bool = False) -> None:
    """Train each job with two ranks. The files of a rank's report are FOLDER/NAME-RANK.json."""
    (folder / "jobs.json").write_text(json.dumps({name: _fields(job) for name, job in jobs.items()}))
    command = [sys.executable, "-m", "ft_pipeline_tests.training.two_ranks", str(folder)]
    ranks = Processes(2, sharded=sharded, reshard=True)
    environments = [rank_environment(os.environ, ranks, number, folder / "meeting") for number in range(2)]
    processes = [Popen(command, env=environment) for environment in environments]
    try:
        assert [process.wait(TIMEOUT_S) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def report_of(folder: Path, name: str, rank: int) -> dict[str, Any]:
    """The summary and the log lines of one rank."""
    report: dict[str, Any] = json.loads((folder / f"{name}-{rank}.json").read_text())
    return report


def _fields(job: Job) -> dict[str, Any]:
    inputs = {name: str(path) for name, path in job.inputs.items()}
    return {"config": job.config, "inputs": inputs, "out": str(job.out), "work": str(job.work)}


def _run(folder: Path) -> None:
    rank = own_rank()
    for name, fields in json.loads((folder / "jobs.json").read_text()).items():
        listener = Listener()
        job = Job(
            "adapter",
            fields["config"],
            {key: Path(path) for key, path in fields["inputs"].items()},
            Path(fields["out"]),
            Path(fields["work"]),
            "cpu",
            listener,
            rank=replace(rank, meeting=folder / f"{name}.meeting"),
        )
        summary = adapter.run(job)
        report = {
            "summary": summary,
            "lines": listener.lines,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        (folder / f"{name}-{rank.number}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
