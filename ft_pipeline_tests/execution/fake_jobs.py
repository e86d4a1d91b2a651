"""Jobs for the supervisor's tests: real processes that do little. The config says what each does."""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psutil

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.worker import LOST
from ft_pipeline.job import Job

GROUPS: list = []
"""Process groups, kept alive until Python ends."""
STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


def count(job: Job) -> dict:
    """Count to `steps`, a checkpoint each; `die_at` sends this process `signal` once, at that step."""
    done = job.work / "done"
    first = int(done.read_text()) if done.exists() else 0
    job.report.log(f"starting at step {first}")
    for step in range(first + 1, job.config["steps"] + 1):
        time.sleep(job.config.get("sleep", 0))
        (written := job.work / "step").write_text(str(step))
        written.replace(done)  # it may be killed at any moment
        job.report.progress(step, job.config["steps"], loss=1 / step)
        if step == job.config.get("die_at") and first == 0:
            os.kill(os.getpid(), job.config["signal"])
    (job.out / "count.txt").write_text(str(job.config["steps"]))
    (job.out / "metrics.jsonl").write_text(f'{{"seconds": {time.time()}}}\n')
    return {"steps": job.config["steps"], "resumed_from": first, "device": job.device}


def hang(job: Job) -> dict:
    """Report one step, then wait for a lock that is never released. A second thread polls meanwhile, as trackers do."""
    job.report.progress(3, 9, loss=0.5)
    lock = threading.Lock()
    lock.acquire()
    threading.Thread(target=_poll, daemon=True).start()
    if job.config.get("stubborn"):
        subprocess.run([sys.executable, "-c", STUBBORN], check=True)
    lock.acquire()
    return {}


def _poll() -> None:
    while True:
        time.sleep(0.2)


def busy(job: Job) -> dict:
    """Work without a report for `seconds`: in a child process on the CPU, or by reading a file."""
    ends = time.monotonic() + job.config["seconds"]
    if job.config["by"] == "cpu":
        code = f"import time\nwhile time.monotonic() < {ends}: sum(range(10_000))"
        subprocess.run([sys.executable, "-c", code], check=True)
    while time.monotonic() < ends:
        with Path(sys.executable).open("rb") as file:
            file.read(100_000)
        time.sleep(0.05)
    return {"done": True}


def surroundings(job: Job) -> dict:
    """Report what a worker finds around itself, and which module of `look_for` is already imported."""
    print("said on stdout")
    print("said on stderr", file=sys.stderr)
    return {
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "input": str(Path("/proc/self/fd/0").readlink()),
        "session": os.getsid(0) == os.getppid(),
        "server": psutil.Process(os.getppid()).ppid(),
        "imported": job.config.get("look_for") in sys.modules,
        "descriptors": sorted(str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()),
    }


def refuse(job: Job) -> dict:
    raise UserError("learning_rate is 7: choose one under 1")


def crash(job: Job) -> dict:
    print("about to divide")
    return {"result": 1 / 0}


def full_disk(job: Job) -> dict:
    with Path("/dev/full").open("w") as file:
        file.write("x" * 100_000)
    return {}


def fill(job: Job) -> dict:
    """Take all the space that the store's file system has."""
    with (job.out / "all.bin").open("wb", buffering=0) as file:
        while file.write(b"x" * 1000):
            pass
    return {}


def leave(job: Job) -> dict:
    os._exit(0)


def lost(job: Job) -> dict:
    """End as an agent does whose cluster took the machine away, until `times` attempts were made."""
    with (job.work / "attempts").open("a") as file:
        file.write("x")
    attempts = len((job.work / "attempts").read_text())
    if attempts <= job.config["times"]:
        (job.out.parent / "error.json").write_text('{"message": "the machine is gone. Run again."}')
        os._exit(LOST)
    (job.out / "lost.txt").write_text("x")
    return {"attempts": attempts}


def hub(job: Job) -> dict:
    """Report whether huggingface_hub considers this process offline."""
    from huggingface_hub import constants

    (job.out / "hub.txt").write_text("x")
    return {"offline": constants.HF_HUB_OFFLINE}


def rank(job: Job) -> dict:
    """One of several ranks: writes a file with its number. Rank `victim` does what `then` says; the others wait."""
    own = job.work / f"rank-{job.rank.number}"
    try:
        own.write_text(f"{os.getpid()} {os.environ.get('WORLD_SIZE', '1')} {job.rank.meeting}")
        job.report.log(f"rank {job.rank.number}")
        if job.config.get("then"):
            _do_as_the_config_says(job)
    except KeyboardInterrupt:
        (job.work / f"saved-{job.rank.number}").write_text("kept")
        raise
    if job.rank.number == 0:
        (job.out / "rank.txt").write_text("0")
    return {"rank": job.rank.number, "count": job.rank.count}


def _do_as_the_config_says(job: Job) -> None:
    while len(list(job.work.glob("rank-*"))) < job.rank.count:
        time.sleep(0.05)
    if job.rank.number == job.config["victim"]:
        if job.config["then"] == "refuse":
            raise UserError("rank 1 cannot")
        os.kill(os.getpid(), signal.SIGKILL)
    if job.config["then"] == "hang":
        job.report.progress(1, 2)
    time.sleep(600)


def family(job: Job) -> dict:
    """Start children that ignore SIGINT and SIGTERM, one of them in a separate session; write all pids, then hang."""
    if job.config.get("stubborn"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    children = [
        subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=new_session)
        for new_session in (False, True)
    ]
    time.sleep(0.5)  # the children have set their handlers
    pids = [os.getpid(), os.getppid(), *(child.pid for child in children)]
    partial = job.work / "pids.partial"
    partial.write_text(" ".join(map(str, pids)))
    partial.rename(job.work / "pids")
    job.report.progress(1, 2)
    if job.config.get("ends"):
        return {"pids": pids}
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        (job.work / "checkpoint").write_text("kept")
        raise
    return {}


def threads(job: Job) -> dict:
    """At exit, gloo's threads still wait to release their tensors, which they can do only while Python runs."""
    from torch import distributed, ones

    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    meeting = distributed.FileStore(str(job.work / "meeting"), 2)
    with ThreadPoolExecutor() as pool:
        new = pool.map(lambda rank: distributed.ProcessGroupGloo(meeting, rank, 2, timedelta(seconds=30)), (0, 1))
        GROUPS.extend(new)

    def meet() -> None:
        sys.setswitchinterval(1000)  # no other thread gets Python's lock unless this one releases it
        for group in GROUPS:
            group.allreduce([ones(1)])
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            pass

    atexit.register(meet)
    return {"groups": len(GROUPS)}
