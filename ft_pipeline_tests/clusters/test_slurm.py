"""A worker in a real SLURM cluster of one node on this machine: it runs, is killed in many ways, and resumes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ft_pipeline.clusters.launchers import SlurmLauncher
from ft_pipeline.clusters.slurm_agent import _parameters
from ft_pipeline.errors import UserError
from ft_pipeline.events import Progress, listening
from ft_pipeline.execution.build import BuildResult, build_artifact
from ft_pipeline.execution.workers.device_leases import DeviceNeed
from ft_pipeline.execution.workers.launchers import RANK_LAUNCHER_MODULE, LocalLauncher, launcher_for
from ft_pipeline.execution.workers.supervisor import WorkerError, run_worker
from ft_pipeline.settings.machine import MachineSettings
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.clusters.slurm_cluster import SlurmCluster, missing, running_cluster
from ft_pipeline_tests.execution.cancelling import Cancelled, cancel
from ft_pipeline_tests.execution.conftest import all_gone, family_pids, job, wait_until
from ft_pipeline_tests.execution.dagster_subject import make_asset

ENTRY = "ft_pipeline_tests.execution.fake_worker"
LAUNCHER = SlurmLauncher(entry=ENTRY)
PATIENCE = 240.0
"""Seconds; a job starts slowly on a busy machine."""
BUILDERS: list[subprocess.Popen[str]] = []


def on_a_cluster(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.long(pytest.mark.skipif(bool(missing()), reason=missing() or "-")(test))


@pytest.fixture(scope="module")
def running() -> Iterator[SlurmCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(running: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    monkeypatch.setenv("SLURM_CONF", str(running.config))
    monkeypatch.setenv("FT_SLURM_PATIENCE", "5")
    yield running
    for process in BUILDERS:
        process.kill()
    BUILDERS.clear()
    running.command("scancel", "--user=root")
    running.wait_until_empty()


def build(store: ArtifactStore, machine: MachineSettings | None = None, **config: object) -> BuildResult:
    launcher = SlurmLauncher(machine=machine or MachineSettings(), entry=ENTRY)
    return build_artifact(None, store, Spec("count", config=config), device=True, launcher=launcher)


def at_step(step: int, action: Callable[[], object]) -> Callable[[Progress], None]:
    """A listener that does something once, at the first report of this step or a later one."""
    done = []

    def listener(progress: Progress) -> None:
        if progress.step >= step and not done:
            done.append(action())

    return listener


def done_steps(store: ArtifactStore) -> int:
    return int(next((store.root / "work").rglob("done")).read_text())


# --- a job that ends well ---------------------------------------------------------------------------------------------


@on_a_cluster
def test_the_worker_runs_as_a_slurm_job_with_what_it_requests(cluster: SlurmCluster, store: ArtifactStore) -> None:
    reports: list[Progress] = []
    shown: list[str] = []
    machine = MachineSettings(cpus=1, memory_gb=0.2, max_hours=1, slurm={"partition": "main", "comment": "of a test"})
    look = at_step(1, lambda: shown.append(cluster.command("scontrol", "show", "job", cluster.jobs()[0][0])))
    with listening(Progress, reports.append), listening(Progress, look):
        built = build(store, machine, steps=4, sleep=0.5)
    assert built.artifact.summary == {"steps": 4, "resumed_from": 0, "device": "cpu"}
    assert reports[-1].step == 4
    assert "JobName=ft-count" in shown[0] and "TimeLimit=01:00:00" in shown[0] and "MinMemoryNode=191M" in shown[0]
    assert "Comment=of a test" in shown[0] and "Requeue=1" in shown[0]


@on_a_cluster
def test_a_run_shows_how_long_its_job_waited(cluster: SlurmCluster, store: ArtifactStore) -> None:
    cluster.command("sbatch", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    blocker = cluster.wait_for("RUNNING")
    asset = make_asset(store.root, "count", {"steps": 20, "sleep": 0.5}, launcher=LAUNCHER)
    messages: list[str] = []

    def free_the_node() -> None:
        wait_until(lambda: any(status == "PENDING" for _, status in cluster.jobs()), "the job waits", PATIENCE)
        cluster.command("scancel", blocker)

    with dg.DagsterInstance.ephemeral() as instance, free_in_background(free_the_node):
        result = dg.materialize([asset], instance=instance, partition_key="qlora")
        messages += [entry.user_message for entry in instance.all_logs(result.run_id)]
    waits = [message for message in messages if "waits in the queue (reason: " in message]
    runs = [message for message in messages if " s in the queue" in message]
    assert waits and len(runs) == 1 and messages.index(waits[0]) < messages.index(runs[0])
    assert any(message.startswith("adapter [qlora]: 20/20") for message in messages)


@contextlib.contextmanager
def free_in_background(action: Callable[[], None]) -> Iterator[None]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(action)
        yield
    future.result()


@on_a_cluster
def test_a_job_that_slurm_starts_again_resumes_in_the_same_step(cluster: SlurmCluster, store: ArtifactStore) -> None:
    """SLURM does this after a preemption or a failure of the node."""
    requeue = at_step(3, lambda: cluster.command("scontrol", "requeue", cluster.jobs()[0][0]))
    with listening(Progress, requeue):
        built = build(store, steps=12, sleep=0.5)
    assert built.artifact.summary["resumed_from"] >= 3


# --- a job that is ended ----------------------------------------------------------------------------------------------


@on_a_cluster
def test_a_canceled_step_ends_the_job_and_keeps_the_checkpoint(cluster: SlurmCluster, tmp_path: Path) -> None:
    worker_job = job(tmp_path, "family")
    with pytest.raises(Cancelled):
        run_worker(None, worker_job, LAUNCHER, on_progress=cancel)
    wait_until(lambda: all_gone([int(pid) for pid in (worker_job.work / "pids").read_text().split()]), "all ended")
    assert (worker_job.work / "checkpoint").read_text() == "kept"
    cluster.wait_until_empty()


@on_a_cluster
def test_a_step_that_is_canceled_while_its_job_waits_leaves_no_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    worker_job = job(tmp_path, "count", steps=1)

    def cancel_once_it_waits(message: str) -> None:
        raise Cancelled

    held = SlurmLauncher(machine=MachineSettings(slurm={"hold": True}), entry=ENTRY)
    with pytest.raises(Cancelled):
        run_worker(None, worker_job, held, log=cancel_once_it_waits)
    cluster.wait_until_empty()
    assert not (worker_job.folder / "started.json").exists()


@on_a_cluster
def test_scancel_from_outside_is_one_clear_error_and_the_next_run_resumes(
    cluster: SlurmCluster, store: ArtifactStore
) -> None:
    scancel = at_step(3, lambda: cluster.command("scancel", cluster.jobs()[0][0]))
    with (
        listening(Progress, scancel),
        pytest.raises(UserError, match=r"^SLURM job \d+ was canceled in SLURM\. Run again to resume"),
    ):
        build(store, steps=200, sleep=0.2)
    assert store.all() == [] and list((store.root / "drafts").iterdir()) == []
    done = done_steps(store)
    assert 3 <= done < 200
    (next((store.root / "work").rglob("done"))).write_text("198")
    assert build(store, steps=200, sleep=0.2).artifact.summary["resumed_from"] == 198


@on_a_cluster
def test_the_time_limit_is_one_clear_error(cluster: SlurmCluster, store: ArtifactStore) -> None:
    with pytest.raises(UserError, match=r"^SLURM job \d+ reached its time limit\. Raise machine\.max_hours, or run"):
        build(store, MachineSettings(max_hours=1 / 60), steps=2000, sleep=0.2)
    assert done_steps(store) >= 1
    cluster.wait_until_empty()


@on_a_cluster
@pytest.mark.parametrize("victim", ["worker", "node"])
def test_kill_9_of_the_jobs_process_is_one_clear_error(
    cluster: SlurmCluster, store: ArtifactStore, victim: str
) -> None:
    process = builder(store)
    worker, guard = family_pids(store, PATIENCE)[:2]
    node = psutil.Process(guard).ppid()
    os.kill(worker if victim == "worker" else node, signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    expected = "the worker was killed by SIGKILL" if victim == "worker" else "ended without a result on"
    assert expected in errors
    wait_until(lambda: all_gone([worker, guard]), "the worker and its guard ended")
    cluster.wait_until_empty()


# --- a run that is killed ---------------------------------------------------------------------------------------------


def builder(store: ArtifactStore) -> subprocess.Popen[str]:
    """A run in a separate process."""
    command = [sys.executable, "-m", "ft_pipeline_tests.execution.subject", str(store.root), "family", "{}", "slurm"]
    BUILDERS.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return BUILDERS[-1]


@on_a_cluster
@pytest.mark.parametrize("victims", ["run", "run and agent"])
def test_no_job_outlives_its_run(cluster: SlurmCluster, store: ArtifactStore, victims: str) -> None:
    process = builder(store)
    pids = family_pids(store, PATIENCE)
    agents = psutil.Process(process.pid).children(recursive=True)
    assert cluster.wait_for("RUNNING")
    for agent in agents if victims == "run and agent" else []:
        agent.kill()
    process.kill()
    process.communicate()
    wait_until(lambda: all_gone(pids), "the worker and its children ended", PATIENCE)
    cluster.wait_until_empty()
    assert [path.read_text() for path in (store.root / "work").rglob("checkpoint")] == ["kept"]


@on_a_cluster
def test_a_job_whose_run_died_while_it_waited_ends_when_it_starts(cluster: SlurmCluster, store: ArtifactStore) -> None:
    cluster.command("sbatch", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    blocker = cluster.wait_for("RUNNING")
    process = builder(store)
    wait_until(lambda: len(cluster.jobs()) == 2, "the job waits", PATIENCE)
    for agent in psutil.Process(process.pid).children(recursive=True):
        agent.kill()
    process.kill()
    process.communicate()
    cluster.command("scancel", blocker)
    cluster.wait_until_empty()


# --- without a cluster ------------------------------------------------------------------------------------------------


def test_what_slurm_does_not_accept_is_one_clear_error(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("srun", "sbatch"):
        (programs / name).write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=r"job: sbatch: error: invalid partition specified: gpu\. Correct `machine`"):
        build(store, MachineSettings(slurm={"partition": "gpu"}), steps=1)


def test_only_steps_that_need_a_device_are_slurm_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_LAUNCHER", "slurm")
    machine = MachineSettings(memory_gb=8)
    two = DeviceNeed(count=2, machine=machine)
    assert launcher_for("scores", DeviceNeed(machine=machine)) == SlurmLauncher(1, machine)
    assert launcher_for("adapter", two) == SlurmLauncher(2, machine, RANK_LAUNCHER_MODULE)
    assert launcher_for("teacher_answers", None) == LocalLauncher(forks=None)
    monkeypatch.setenv("FT_SLURM_GPUS", "0")
    assert launcher_for("adapter", DeviceNeed()) == SlurmLauncher(0) and SlurmLauncher(0).lease.device == "cpu"
    monkeypatch.setenv("FT_SLURM_GPUS", "-1")
    with pytest.raises(UserError, match="FT_SLURM_GPUS='-1' is not a whole number of at least 0"):
        launcher_for("adapter", DeviceNeed())


def test_a_job_requests_gpus_and_memory_and_leaves_the_rest_to_the_cluster() -> None:
    machine = json.loads(MachineSettings(memory_gb=64, slurm={"qos": "high"}).model_dump_json())
    requested = _parameters("adapter", {"gpus": 2, "machine": machine})
    assert requested["gpus_per_node"] == 2 and requested["mem"] == "61036M"
    assert requested["time"] is None and requested["cpus_per_task"] is None
    assert requested["additional_parameters"] == {"requeue": True, "qos": "high"}
    assert _parameters("scores", {"gpus": 0, "machine": machine})["gpus_per_node"] is None


@pytest.mark.parametrize(
    ("status", "raised", "message"),
    [
        ("NODE_FAIL", WorkerError, r"lost its machine \(NODE_FAIL\)"),
        ("TIMEOUT", UserError, r"reached its time limit\. Raise machine\.max_hours"),
        ("OUT_OF_MEMORY", UserError, r"used more memory than it requested\. Raise machine\.memory_gb"),
    ],
)
def test_the_end_that_slurm_reports_is_the_error(
    tmp_path: Path,
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    raised: type[Exception],
    message: str,
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    answers = {"sbatch": "Submitted batch job 7", "squeue": f"{status}|None|far", "scancel": "", "srun": ""}
    for name, answer in answers.items():
        (programs / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(raised, match=message) as error:
        build(store, steps=1)
    assert (type(error.value).__name__ == "WorkerLost") == (raised is WorkerError)
