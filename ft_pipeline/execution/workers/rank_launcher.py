"""One job by several processes; the accelerate launcher starts it.

    python -m ft_pipeline.execution.workers.rank_launcher JOB_JSON

    supervisor ── guard ── this ── rank 0, rank 1, …

Each rank is a worker with the same job. They find each other through a file, so no port is opened for that, and talk
over the loopback interface. When one of them fails, the others, who would wait for it in vain, are ended.
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
"""Seconds for the others when one was interrupted: they have just saved the same step."""


def main(arguments: Sequence[str]) -> int:
    """Run the job of the file that `arguments` names; the exit code of the first rank that failed, 0 if none."""
    process_guard.split()
    # They reach the ranks too, which decide what they mean; one that still starts finds them waiting (guard.join).
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
    """What a rank reads: ours (FT_RANK), and where there are others the names that torch and accelerate know."""
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
    """The first of several leased GPUs for a process that trains alone; transformers would spread it over all."""
    leased = own.get("CUDA_VISIBLE_DEVICES")
    return {} if leased is None else {"CUDA_VISIBLE_DEVICES": leased.partition(",")[0]}


def wait_for(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Until all have ended, or one has failed and the others were ended; the exit code."""
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
    """Of those that failed at once: a rank that crashed (1) may only have lost another; 0 where none failed."""
    return min(codes, key=lambda code: code == 1, default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
