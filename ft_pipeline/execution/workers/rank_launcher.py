"""Runs one job in several processes; the accelerate launcher starts it.

    python -m ft_pipeline.execution.workers.rank_launcher JOB_JSON

    supervisor ── guard ── rank_launcher ── rank 0, rank 1, …

Each rank is a worker with the same job. The ranks find each other through a file, so that no port is opened for that.
They communicate over the loopback interface. If one fails, the others are ended: they would wait for it forever.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers import process_guard, worker
from ft_pipeline.execution.workers.accelerate_config import Processes, read_processes
from ft_pipeline.execution.workers.launchers import RANK_ENTRY, WORKER_MODULE

POLL_SECONDS = 0.1
INTERRUPT_GRACE_SECONDS = 10.0
"""Seconds that the other ranks get to end after one was interrupted: all of them save the same step."""


def main(arguments: Sequence[str]) -> int:
    """Run the job in the file that `arguments` names. Returns the exit code of the first failed rank, or 0."""
    process_guard.fork_guarded_worker()
    # The signals also reach the ranks, which handle them. A rank that is starting finds them pending (join_guard).
    signal.pthread_sigmask(signal.SIG_BLOCK, process_guard.STOP_SIGNALS)
    job_file = Path(arguments[0])
    device = json.loads(job_file.read_text(encoding="utf-8"))["device"]
    try:
        processes = read_processes(os.environ, device)
    except UserError as error:
        return worker.report_user_error(job_file, str(error))
    with tempfile.TemporaryDirectory(prefix="ft_pipeline-ranks-") as folder:
        return wait_for_ranks(_start(job_file, processes, Path(folder) / "meeting"))


def _start(job_file: Path, processes: Processes, meeting: Path) -> list[subprocess.Popen[bytes]]:
    entry = os.environ.pop(RANK_ENTRY, WORKER_MODULE)
    command = [sys.executable, "-P", "-m", entry, str(job_file)]
    return [
        subprocess.Popen(command, env=rank_environment(os.environ, processes, number, meeting))
        for number in range(processes.count)
    ]


def rank_environment(
    environment: Mapping[str, str], processes: Processes, number: int, meeting: Path
) -> dict[str, str]:
    """Return `environment` with FT_RANK, and for several ranks with the variables of torch and accelerate."""
    rank: dict[str, Any] = {"number": number, "count": processes.count, "meeting": str(meeting)}
    rank |= {"sharded": processes.sharded, "reshard": processes.reshard}
    if processes.count == 1:
        return {**environment, **_first_gpu_only(environment), worker.RANK: json.dumps(rank)}
    loopback = "lo" if sys.platform == "linux" else "lo0"
    return {
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        **environment,
        worker.RANK: json.dumps(rank),
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(processes.count),
        "LOCAL_WORLD_SIZE": str(processes.count),
        "OMP_NUM_THREADS": str(_threads_per_rank(environment, processes.count)),
    }


def _threads_per_rank(environment: Mapping[str, str], count: int) -> int:
    """The rank's share of the threads in OMP_NUM_THREADS, which may be one number for each nesting level."""
    outermost = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(outermost if outermost.isdecimal() else 1) // count)


def _first_gpu_only(environment: Mapping[str, str]) -> dict[str, str]:
    """Only the first leased GPU, for a process that trains alone: transformers would use all of them."""
    leased = environment.get("CUDA_VISIBLE_DEVICES")
    return {} if leased is None else {"CUDA_VISIBLE_DEVICES": leased.partition(",")[0]}


def wait_for_ranks(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all ranks have ended; if one fails, end the others.

    Returns the exit code of the rank that failed first, or 0. A rank that was killed by signal N counts as 128 + N.
    """
    failed_code = 0
    while not failed_code and any(rank.poll() is None for rank in ranks):
        time.sleep(POLL_SECONDS)
        failed_code = _most_informative([rank.returncode for rank in ranks if rank.poll()])
    deadline = time.monotonic() + (INTERRUPT_GRACE_SECONDS if failed_code == worker.INTERRUPTED else 0)
    for rank in ranks:
        while rank.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        rank.kill()
        rank.wait()
    failed_code = failed_code or _most_informative([rank.returncode for rank in ranks if rank.returncode])
    return failed_code if failed_code >= 0 else 128 - failed_code


def _most_informative(codes: Sequence[int]) -> int:
    """The most informative code of ranks that failed together; 0 if none failed.

    A rank that crashed (1) may only have lost another rank.
    """
    return min(codes, key=lambda code: code == 1, default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
