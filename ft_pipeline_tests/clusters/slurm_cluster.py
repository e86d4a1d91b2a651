"""A SLURM cluster of this machine alone, from Debian's packages: munged, slurmctld and slurmd on the loopback."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_pipeline_tests.execution.conftest import wait_until

DAEMONS = ("munged", "slurmctld", "slurmd")
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
KillWait=30
SchedulerParameters=sched_interval=2,defer_batch
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why the cluster cannot run here; empty if it can."""
    absent = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=SYSTEM_PATH) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "SLURM starts jobs for a user, so its node needs root"


class SlurmCluster:
    """The running cluster."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def command(self, *arguments: str) -> str:
        """Return the output of a command of SLURM."""
        environment = {**os.environ, "SLURM_CONF": str(self.config)}
        return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False).stdout

    def jobs(self) -> list[tuple[str, str]]:
        """(id, status) of the jobs that have not ended."""
        lines = self.command("squeue", "--noheader", "--format=%i|%T").split()
        return [(line.partition("|")[0], line.partition("|")[2]) for line in lines]

    def wait_for(self, status: str) -> str:
        """Wait until the only job has the status; return its id."""
        wait_until(lambda: [found for _, found in self.jobs()] == [status], f"a job that is {status}", 240)
        return self.jobs()[0][0]

    def wait_until_empty(self) -> None:
        wait_until(lambda: not self.jobs(), "no job is left", 240)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


@contextmanager
def running_cluster() -> Iterator[SlurmCluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    folder.chmod(0o755)  # munge refuses a socket in a folder that others cannot enter
    host = socket.gethostname().partition(".")[0]
    controller_port, node_port = free_ports(2)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(folder=folder, host=host, controller_port=controller_port, node_port=node_port).lstrip()
    )
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    munge = [f"--{option}={folder / name}" for option, name in (files | {"seed-file": "munge.seed"}).items()]
    cluster, started = SlurmCluster(config), []
    try:
        started.append(start("munged", "--foreground", "--force", *munge, log=folder / "munged.out"))
        wait_until((folder / "munge.socket").exists, "munge answers")
        started.append(start("slurmctld", "-D", "-f", str(config), log=folder / "slurmctld.out"))
        started.append(start("slurmd", "-D", "-f", str(config), log=folder / "slurmd.out"))
        wait_until(lambda: "idle" in cluster.command("sinfo", "--noheader", "--format=%t"), "the node is idle")
        yield cluster
    finally:
        cluster.command("scancel", "--user=root")
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def start(name: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    program = shutil.which(name, path=SYSTEM_PATH)
    assert program is not None
    with log.open("wb") as output:
        return subprocess.Popen([program, *arguments], stdout=output, stderr=subprocess.STDOUT)
