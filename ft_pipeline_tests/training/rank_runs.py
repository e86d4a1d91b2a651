"""Processes over gloo that train some jobs together, one after the other: `run_ranks(jobs, folder)`."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from ft_pipeline.execution.workers.accelerate_config import Processes
from ft_pipeline.execution.workers.rank_launcher import rank_environment
from ft_pipeline.execution.workers.worker import own_rank
from ft_pipeline.job import Job, Rank
from ft_pipeline.training import adapter
from ft_pipeline.training.trainer.data_parallel import Ranks
from ft_pipeline_tests.training.subject import Listener

TIMEOUT_S = 900


@contextmanager
def only_rank(number: int, count: int = 2) -> Iterator[Ranks]:
    """One rank of several. The others do not exist, and are not needed to divide weights."""
    dist.init_process_group("fake", store=FakeStore(), rank=number, world_size=count)
    try:
        yield Ranks(Rank(number, count, sharded=True))
    finally:
        dist.destroy_process_group()


def run_ranks(jobs: Mapping[str, Job], folder: Path, *, count: int = 2, sharded: bool = False) -> None:
    """Train each job with `count` ranks, started as the launcher starts them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps({name: _fields(job) for name, job in jobs.items()}))
    command = [sys.executable, "-m", "ft_pipeline_tests.training.rank_runs", str(folder)]
    ranks = Processes(count, sharded=sharded)
    environments = [rank_environment(os.environ, ranks, number, folder / "meeting") for number in range(count)]
    processes = [Popen(command, env=environment) for environment in environments]
    try:
        assert [process.wait(TIMEOUT_S) for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()


def summary_of(folder: Path, name: str) -> dict[str, Any]:
    """The summary of a job that run_ranks trained."""
    summary: dict[str, Any] = json.loads((folder / f"{name}.summary.json").read_text())
    return summary


def _fields(job: Job) -> dict[str, Any]:
    inputs = {name: str(path) for name, path in job.inputs.items()}
    return {"config": job.config, "inputs": inputs, "out": str(job.out), "work": str(job.work)}


def _run(folder: Path) -> None:
    rank = own_rank()
    for name, fields in json.loads((folder / "jobs.json").read_text()).items():
        inputs = {key: Path(path) for key, path in fields["inputs"].items()}
        out, work = Path(fields["out"]), Path(fields["work"])
        own = replace(rank, meeting=folder / f"{name}.meeting")
        summary = adapter.run(Job("adapter", fields["config"], inputs, out, work, "cpu", Listener(), rank=own))
        if rank.number == 0:
            (folder / f"{name}.summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
