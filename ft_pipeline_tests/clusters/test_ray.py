"""A worker on a real Ray cluster of two nodes on this machine: it runs, is stopped, and resumes after a lost node."""

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ft_pipeline.clusters.launchers import RayLauncher
from ft_pipeline.errors import UserError
from ft_pipeline.events import Progress, listening
from ft_pipeline.execution.build import BuildResult, build_artifact
from ft_pipeline.execution.workers.device_leases import DeviceNeed
from ft_pipeline.execution.workers.heartbeat import STOP, write_heartbeat
from ft_pipeline.execution.workers.launchers import RANK_LAUNCHER_MODULE, LocalLauncher, launcher_for
from ft_pipeline.execution.workers.supervisor import WorkerError, WorkerJob, run_worker
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.execution.cancelling import Cancelled, cancel
from ft_pipeline_tests.execution.conftest import ROOT, all_gone, job, wait_until
from ft_pipeline_tests.execution.dagster_subject import make_asset

WITHOUT_RAY = importlib.util.find_spec("ray") is None
LAUNCHER = RayLauncher(entry="ft_pipeline_tests.execution.fake_worker")
PATIENCE = 240.0
"""Seconds; a node starts slowly."""


def long_with_ray(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.long(pytest.mark.skipif(WITHOUT_RAY, reason="pip install 'ft-pipeline[ray]'")(test))


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


class Cluster:
    """A head node that takes no work, and one node that does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._dashboard = free_ports(2)
        self.address = f"http://127.0.0.1:{self._dashboard}"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._start("--head", f"--port={self._port}", f"--dashboard-port={self._dashboard}", "--num-cpus=0")
        wait_until(lambda: self._alive() == 1, "the head is there", PATIENCE)
        self.add_node()

    def add_node(self) -> None:
        self.node = self._start(f"--address=127.0.0.1:{self._port}", "--num-cpus=1")
        wait_until(lambda: self._alive() == 2, "the node has joined", PATIENCE)

    def kill_node(self) -> None:
        """Kill the node at once with every process on it, like a power failure."""
        kill(self.node)

    def close(self) -> None:
        for node in reversed(self._started):
            kill(node)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        agent, client = free_ports(2)
        head = ["--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}", f"--temp-dir={self._folder}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
        command += ["--object-store-memory=80000000", f"--dashboard-agent-listen-port={agent}", *arguments]
        command += head if "--head" in arguments else []
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
        quiet = subprocess.DEVNULL
        self._started.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))
        return self._started[-1]

    def _alive(self) -> int:
        url = f"http://127.0.0.1:{self._dashboard}/nodes?view=summary"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                nodes = json.load(answer)["data"]["summary"]
        except OSError:
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


def kill(node: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    node.kill()
    node.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    running = Cluster(folder)
    try:
        running.start()
        yield running
    finally:  # also the nodes that started before another one failed to
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_RAY_PATIENCE", "5")
    if "cluster" in request.fixturenames:
        monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue("cluster").address)


def build(store: ArtifactStore, **config: object) -> BuildResult:
    return build_artifact(None, store, Spec("count", config=config), device=True, launcher=LAUNCHER)


def jobs(cluster: Cluster, folder: Path) -> list[str]:
    """The states of the Ray jobs whose files are below `folder`."""
    with urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=10) as answer:
        return [job["status"] for job in json.load(answer) if str(folder) in job["entrypoint"]]


@long_with_ray
def test_the_worker_runs_on_the_cluster(cluster: Cluster, store: ArtifactStore) -> None:
    reports: list[Progress] = []
    with listening(Progress, reports.append):
        built = build(store, steps=3)
    assert built.artifact.summary == {"steps": 3, "resumed_from": 0, "device": "cpu"}
    assert reports[-1].step == 3
    wait_until(lambda: jobs(cluster, store.root) == ["SUCCEEDED"], "Ray knows that it ended well", PATIENCE)


@long_with_ray
def test_dagster_shows_the_log_and_progress_of_a_ray_worker(cluster: Cluster, store: ArtifactStore) -> None:
    asset = make_asset(store.root, "count", {"steps": 4, "sleep": 0.5}, launcher=LAUNCHER)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asset], instance=instance, partition_key="qlora")
        messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "starting at step 0" in messages
    assert any(message.startswith("adapter [qlora]: 4/4, loss 0.25") for message in messages)


@long_with_ray
def test_a_canceled_step_ends_the_ray_job(cluster: Cluster, tmp_path: Path) -> None:
    worker_job = job(tmp_path, "family")

    with pytest.raises(Cancelled):
        run_worker(None, worker_job, LAUNCHER, on_progress=cancel)
    pids = [int(pid) for pid in (worker_job.work / "pids").read_text().split()]
    wait_until(lambda: all_gone(pids), "the worker and its children ended")
    assert (worker_job.work / "checkpoint").read_text() == "kept"
    wait_until(lambda: jobs(cluster, tmp_path)[0] in ("FAILED", "STOPPED"), "Ray knows that it ended", PATIENCE)


@long_with_ray
def test_a_lost_node_is_one_clear_error_and_the_next_run_resumes(cluster: Cluster, store: ArtifactStore) -> None:
    def kill_at_3(progress: Progress) -> None:
        if progress.step >= 3 and cluster.node.poll() is None:
            cluster.kill_node()

    with (
        listening(Progress, kill_at_3),
        pytest.raises(WorkerError, match=r"the worker's Ray node \(.+\) is gone\. Run again to resume from the last"),
    ):
        build(store, steps=200, sleep=0.2)
    assert store.all() == [] and list((store.root / "drafts").iterdir()) == []
    done = int(next((store.root / "work").rglob("done")).read_text())
    assert 3 <= done < 200
    cluster.add_node()
    built = build(store, steps=200, sleep=0.2)
    assert built.artifact.summary["resumed_from"] == done
    assert len(store.all()) == 1


@long_with_ray
def test_an_unreachable_cluster_is_an_error(monkeypatch: pytest.MonkeyPatch, store: ArtifactStore) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"The Ray cluster at http://127\.0\.0\.1:9 did not accept the job"):
        build(store, steps=1)


# --- the node's side, without Ray -------------------------------------------------------------------------------------


def on_node(worker_job: WorkerJob, patience: float = 60.0) -> subprocess.Popen[bytes]:
    """Write an order, and start what Ray would start on a node."""
    order = {"entry": LAUNCHER.entry, "env": {}, "patience": patience}
    (worker_job.folder / "order.json").write_text(json.dumps(order))
    write_heartbeat(worker_job.folder, "1")
    command = [sys.executable, "-m", "ft_pipeline.clusters.cluster_node", str(worker_job.write())]
    return subprocess.Popen(command)


def exit_code(worker_job: WorkerJob) -> int:
    return json.loads((worker_job.folder / "ended.json").read_text())["code"]


@pytest.mark.parametrize("reason", ["asked", pytest.param("silence", marks=pytest.mark.long)])
def test_a_worker_stops_on_request_or_without_a_heartbeat(tmp_path: Path, reason: str) -> None:
    worker_job = job(tmp_path, "family")
    node = on_node(worker_job, patience=60 if reason == "asked" else 1)
    if reason == "asked":
        wait_until(lambda: (worker_job.work / "pids").exists(), "the worker is under way")
        write_heartbeat(worker_job.folder, STOP)
    else:
        keep_beating(worker_job, lambda: (worker_job.work / "pids").exists())
    assert node.wait(PATIENCE) == exit_code(worker_job) == 130
    assert (worker_job.work / "checkpoint").read_text() == "kept"
    assert all_gone([int(pid) for pid in (worker_job.work / "pids").read_text().split()])


def keep_beating(worker_job: WorkerJob, condition: Callable[[], bool]) -> None:
    numbers = itertools.count(2)

    def beaten() -> bool:
        write_heartbeat(worker_job.folder, str(next(numbers)))
        return condition()

    wait_until(beaten, "the worker is under way")


def test_a_worker_that_ends_writes_its_exit_code(tmp_path: Path) -> None:
    worker_job = job(tmp_path, "refuse")
    assert on_node(worker_job).wait(PATIENCE) == exit_code(worker_job) == 3
    assert "choose one under 1" in (worker_job.folder / "error.json").read_text()


@pytest.mark.long
def test_a_worker_that_hangs_is_ended_on_its_node(tmp_path: Path) -> None:
    worker_job = replace(job(tmp_path, "hang"), stall_seconds=2.4)
    node = on_node(worker_job)
    keep_beating(worker_job, lambda: (worker_job.folder / "ended.json").exists())
    assert node.wait(PATIENCE) == exit_code(worker_job) == 1
    message = json.loads((worker_job.folder / "error.json").read_text())["message"]
    assert "made no progress for 0.04 min" in message and "Last report: step 3 of 9." in message


@pytest.mark.long
def test_a_second_signal_kills_a_worker_that_does_not_stop(tmp_path: Path) -> None:
    worker_job = job(tmp_path, "family", stubborn=True)
    node = on_node(worker_job)
    keep_beating(worker_job, lambda: (worker_job.work / "pids").exists())
    node.terminate()
    time.sleep(1)
    node.terminate()
    assert node.wait(PATIENCE) == exit_code(worker_job) == 130
    wait_until(
        lambda: all_gone([int(pid) for pid in (worker_job.work / "pids").read_text().split()]), "the worker ended"
    )


def test_a_node_without_access_to_the_job_folder_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ft_pipeline.clusters.cluster_node", str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"cannot read the job ([Errno 2] No such file or directory: '{tmp_path}/order.json')" in done.stderr


# --- this machine's side, with a client whose answers a test sets -----------------------------------------------------


CLIENT = """
from types import SimpleNamespace
class JobSubmissionClient:
    def __init__(self, address): self.asked = 0
    def submit_job(self, **job): {submit}
    def get_job_info(self, job):
        self.asked += 1
        {answer}
"""
AGENT = """
import sys
from ft_pipeline.clusters import cluster_agent, ray_agent
cluster_agent.HEAD_TIMEOUT, cluster_agent.JobMonitor.status_seconds, cluster_agent.WORKER_STOP_SECONDS = 4.0, 1.0, 0.0
sys.exit(cluster_agent.run_agent(sys.argv[1:], ray_agent._submit, ray_agent._report_end))
"""


def agent(folder: Path, answer: str, submit: str = "return 'a job'") -> tuple[int, str]:
    """Run the agent of a job that was started on a node; returns (exit code, error message).

    answer: the code of the client's answer to a question about the job.
    """
    worker_job = job(folder, "count")
    (worker_job.folder / "order.json").write_text(json.dumps({"python": "python", "cpus": 1, "gpus": 0, "patience": 1}))
    (worker_job.folder / "started.json").write_text('{"host": "far"}')
    (folder / "ray").mkdir()
    (folder / "ray" / "__init__.py").touch()
    (folder / "ray" / "job_submission.py").write_text(CLIENT.format(submit=submit, answer=answer))
    lifeline, kept = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", AGENT, str(worker_job.write())],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "FT_LIFELINE_FD": str(lifeline)},
        pass_fds=[lifeline],
        timeout=PATIENCE,
        check=False,
    )
    os.close(lifeline)
    os.close(kept)
    return done.returncode, json.loads((worker_job.folder / "error.json").read_text())["message"]


@pytest.mark.long
def test_the_agent_gives_up_on_a_lost_head_node(tmp_path: Path) -> None:
    code, message = agent(tmp_path, "raise ConnectionError('refused')")
    assert code == 1
    assert message.startswith("the head of the Ray cluster is gone. Run again") and message.endswith(": refused")


def test_the_end_of_rays_message_is_reported(tmp_path: Path) -> None:
    code, message = agent(tmp_path, "return SimpleNamespace(status='FAILED', message='log ' * 200 + 'no such module')")
    assert code == 1 and message.startswith("the worker's Ray node (far) is gone") and "no such module" in message


@pytest.mark.long
def test_a_brief_loss_of_the_job_folder_does_not_end_the_agent(tmp_path: Path) -> None:
    """If the agent ended, its worker would run on for a while, at the same time as that of the next run."""
    there, away = tmp_path / "folder", tmp_path / "away"
    answer = f"import os; os.rename({str(there)!r}, {str(away)!r}) if self.asked == 1 else None; "
    answer += f"os.rename({str(away)!r}, {str(there)!r}) if self.asked == 2 else None; "
    answer += "return SimpleNamespace(status='RUNNING' if self.asked < 2 else 'FAILED', message='seen to the end')"
    code, message = agent(tmp_path, answer)
    assert code == 1 and message.endswith("seen to the end")


def test_a_cluster_that_refuses_without_a_message_is_reported(tmp_path: Path) -> None:
    code, message = agent(tmp_path, "return None", submit="raise TimeoutError")
    assert code == 3 and "did not accept the job: TimeoutError. Start it, or set RAY_ADDRESS" in message


def test_only_steps_that_need_a_device_run_on_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_LAUNCHER", "ray")
    assert launcher_for("scores", DeviceNeed(count=2)) == RayLauncher(2)
    assert launcher_for("adapter", DeviceNeed(count=2)) == RayLauncher(2, RANK_LAUNCHER_MODULE)
    assert RayLauncher(2).lease.device == "cuda:0" and len(RayLauncher(2).lease.gpu_names) == 2
    assert launcher_for("teacher_answers", None) == LocalLauncher(forks=None)
    monkeypatch.setenv("FT_RAY_GPUS", "0")
    assert launcher_for("adapter", DeviceNeed()) == RayLauncher(0) and RayLauncher(0).lease.device == "cpu"
    with pytest.raises(
        UserError, match=r"this step needs 1 GPU of at least 40 GB, but FT_RAY_GPUS is 0\. Remove `gpu`"
    ):
        launcher_for("scores", DeviceNeed(min_memory_gb=40, required=True))
    monkeypatch.setenv("FT_RAY_GPUS", "one")
    with pytest.raises(UserError, match="FT_RAY_GPUS='one' is not a whole number of at least 0"):
        launcher_for("adapter", DeviceNeed())


@pytest.mark.parametrize("name", ["FT_RAY_CPUS", "FT_RAY_PATIENCE"])
def test_zero_cpus_or_zero_patience_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.raises(UserError, match=f"{name}='0' is not a whole number of at least 1"):
        run_worker(None, job(tmp_path, "count"), LAUNCHER)
