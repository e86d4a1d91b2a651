"""Runs one job in several processes; the accelerate launcher starts it.

    python -m ft_pipeline.execution.workers.rank_launcher JOB_JSON

    supervisor ── guard ── this ── rank 0, rank 1, …

Each rank is a worker with the same job. The ranks find each other through a file, so that no port is opened for it, and
communicate over the loopback interface. If one fails, the others are ended: they would wait for it forever.
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
from ft_pipeline.execution.workers.accelerate_config import Processes, processes_of
from ft_pipeline.execution.workers.launchers import ENTRY, WORKER

POLL_SECONDS = 0.1
GRACE = 10.0
"""Seconds that the other ranks get after one was interrupted: they have just saved the same step."""


def main(arguments: Sequence[str]) -> int:
    """Run the job in the file that `arguments` names. Returns the exit code of the first failed rank, or 0."""
    process_guard.split()
    # The signals also reach the ranks, which handle them; a starting rank finds them pending (process_guard.join).
    signal.pthread_sigmask(signal.SIG_BLOCK, process_guard.STOPPING)
    job_file = Path(arguments[0])
    device = json.loads(job_file.read_text(encoding="utf-8"))["device"]
    try:
        processes = processes_of(os.environ, device)
    except UserError as error:
        return worker.refuse(job_file, str(error))
    with tempfile.TemporaryDirectory(prefix="ft_pipeline-ranks-") as folder:
        return wait_for(_start(job_file, processes, Path(folder) / "meeting"))


def _start(job_file: Path, processes: Processes, meeting: Path) -> list[subprocess.Popen[bytes]]:
    entry = os.environ.pop(ENTRY, WORKER)
    command = [sys.executable, "-P", "-m", entry, str(job_file)]
    return [
        subprocess.Popen(command, env=environment(os.environ, processes, number, meeting))
        for number in range(processes.count)
    ]


def environment(own: Mapping[str, str], processes: Processes, number: int, meeting: Path) -> dict[str, str]:
    """Return a rank's environment: FT_RANK, and for several ranks the variables of torch and accelerate."""
    rank: dict[str, Any] = {"number": number, "count": processes.count, "meeting": str(meeting)}
    rank |= {"sharded": processes.sharded, "reshard": processes.reshard}
    if processes.count == 1:
        return {**own, **_first_gpu(own), worker.RANK: json.dumps(rank)}
    outermost = own.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # OpenMP takes one number for each level
    threads = max(1, int(outermost if outermost.isdecimal() else 1) // processes.count)
    loopback = "lo" if sys.platform == "linux" else "lo0"
    return {
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        **own,
        worker.RANK: json.dumps(rank),
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(processes.count),
        "LOCAL_WORLD_SIZE": str(processes.count),
        "OMP_NUM_THREADS": str(threads),
    }


def _first_gpu(own: Mapping[str, str]) -> dict[str, str]:
    """Only the first leased GPU, for a process that trains alone: transformers would use all of them."""
    leased = own.get("CUDA_VISIBLE_DEVICES")
    return {} if leased is None else {"CUDA_VISIBLE_DEVICES": leased.partition(",")[0]}


def wait_for(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all ranks have ended; if one fails, end the others. Returns the exit code."""
    failed = 0
    while not failed and any(rank.poll() is None for rank in ranks):
        time.sleep(POLL_SECONDS)
        failed = _telling([rank.returncode for rank in ranks if rank.poll()])
    deadline = time.monotonic() + (GRACE if failed == worker.INTERRUPTED else 0)
    for rank in ranks:
        while rank.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        rank.kill()
        rank.wait()
    failed = failed or _telling([rank.returncode for rank in ranks if rank.returncode])
    return failed if failed >= 0 else 128 - failed


def _telling(codes: Sequence[int]) -> int:
    """The most informative code of ranks that failed together; 0 if none failed.

    A rank that crashed (1) may only have lost another rank.
    """
    return min(codes, key=lambda code: code == 1, default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
