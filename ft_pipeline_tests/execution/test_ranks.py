"""Several processes run one job: the first reports, all end together, and a failure is reported with its reason."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.accelerate_config import ACCELERATE_CONFIG, NUM_PROCESSES, Processes, read_processes
from ft_pipeline.execution.workers.device_leases import DeviceNeed
from ft_pipeline.execution.workers.launchers import AccelerateLauncher, LocalLauncher, launcher_for
from ft_pipeline.execution.workers.rank_launcher import rank_environment, wait_for_ranks
from ft_pipeline.execution.workers.supervisor import WorkerError, run_worker
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.execution.cancelling import Cancelled, cancel
from ft_pipeline_tests.execution.conftest import ROOT, all_gone, job, wait_until
from ft_pipeline_tests.execution.dagster_subject import make_asset

LAUNCHER = AccelerateLauncher("ft_pipeline_tests.execution.fake_worker")


@pytest.fixture(autouse=True)
def _two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUM_PROCESSES, "2")


def pids(work: Path) -> list[int]:
    return [int(path.read_text().split()[0]) for path in work.glob("rank-*")]


def test_every_rank_runs_the_job_and_the_first_reports(tmp_path: Path) -> None:
    worker_job = job(tmp_path, "rank")
    lines: list[str] = []
    result = run_worker(None, worker_job, LAUNCHER, log=lines.append)
    assert result.summary == {"rank": 0, "count": 2}
    assert lines == ["rank 0"]
    ranks = [(worker_job.work / f"rank-{number}").read_text().split() for number in range(2)]
    assert [fields[1] for fields in ranks] == ["2", "2"]
    assert ranks[0][2] == ranks[1][2] and not Path(ranks[0][2]).parent.exists()


def test_dagster_logs_only_the_first_rank(store: ArtifactStore) -> None:
    asset = make_asset(store.root, "rank", {}, launcher=LAUNCHER)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asset], instance=instance, partition_key="qlora")
        messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert [message for message in messages if message.startswith("rank ")] == ["rank 0"]
    (artifact,) = store.all()
    assert artifact.summary == {"rank": 0, "count": 2}


def test_the_failed_ranks_reason_is_reported_and_the_others_end(tmp_path: Path) -> None:
    worker_job = job(tmp_path, "rank", then="refuse", victim=1)
    with pytest.raises(UserError, match="rank 1 cannot"):
        run_worker(None, worker_job, LAUNCHER)
    assert len(pids(worker_job.work)) == 2 and all_gone(pids(worker_job.work))


def test_a_killed_rank_ends_all_ranks(tmp_path: Path) -> None:
    worker_job = job(tmp_path, "rank", then="die", victim=1)
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        run_worker(None, worker_job, LAUNCHER)
    assert len(pids(worker_job.work)) == 2 and all_gone(pids(worker_job.work))


@pytest.mark.parametrize(("codes", "reported"), [((1, 3), 3), ((3, 1), 3), ((1, 1), 1), ((0, 0), 0)])
def test_of_several_failures_the_one_with_a_reason_is_reported(codes: tuple[int, int], reported: int) -> None:
    ended = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in codes]
    for process in ended:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert wait_for_ranks(ended) == reported


@pytest.mark.parametrize("count", [1, 2])
def test_a_cancel_asks_every_rank_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv(NUM_PROCESSES, str(count))
    worker_job = job(tmp_path, "rank", then="hang", victim=-1)

    with pytest.raises(Cancelled):
        run_worker(None, worker_job, LAUNCHER, on_progress=cancel)
    wait_until(lambda: all_gone(pids(worker_job.work)), "the ranks ended")
    assert {path.name for path in worker_job.work.glob("saved-*")} == {f"saved-{number}" for number in range(count)}


def test_a_rank_that_is_still_starting_is_stopped_too(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="the worker was interrupted"):
        run_worker(None, job(tmp_path, "rank"), AccelerateLauncher("ft_pipeline_tests.execution.interrupted_worker"))


def test_only_training_runs_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher_for("adapter", DeviceNeed()) == LocalLauncher(forks=True)
    monkeypatch.setenv("FT_LAUNCHER", "accelerate")
    assert launcher_for("adapter", DeviceNeed()) == AccelerateLauncher()
    assert launcher_for("scores", DeviceNeed()) == LocalLauncher(forks=True)
    monkeypatch.setenv("FT_LAUNCHER", "flux")
    with pytest.raises(UserError, match=r"FT_LAUNCHER='flux' is not a launcher. Set it to local"):
        launcher_for("scores", None)


def test_gpus_and_configuration_set_the_number_of_processes() -> None:
    fsdp = str(ROOT / "deploy" / "accelerate" / "fsdp.yaml")
    two_gpus = {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    assert read_processes({}, "cpu") == Processes(1)
    assert read_processes(two_gpus, "cuda:0") == Processes(2)
    assert read_processes(two_gpus | {NUM_PROCESSES: "1"}, "cuda:0") == Processes(1)
    assert read_processes({NUM_PROCESSES: "2", ACCELERATE_CONFIG: fsdp}, "cpu") == Processes(2, sharded=True)
    with pytest.raises(UserError, match=r"3 processes for 2 leased GPU\(s\)\. Set gpu.count of the experiment to 3"):
        read_processes(two_gpus | {NUM_PROCESSES: "3"}, "cuda:0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_processes: two", "'two' is not a number of processes"),
        ("num_processes: 0", "0 is not a number of processes"),
        ("distributed_type: FSDP", "Set `fsdp_version: 2`"),
        ("{distributed_type: FSDP, fsdp_config: {fsdp_version: two}}", "fsdp_version is 'two'. Set `fsdp_version: 2`"),
        ("{distributed_type: FSDP, fsdp_config: [fsdp_version]}", "fsdp_config is .*. Indent its keys below it"),
        (
            "{distributed_type: FSDP, fsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: FULL_SHARD}}",
            "fsdp_reshard_after_forward is 'FULL_SHARD'. Set it to true or false",
        ),
        ("distributed_type: MEGATRON_LM", "distributed_type 'MEGATRON_LM' is not supported"),
        ("num_machines: 2", "num_machines is 2, but a training runs on one"),
        ("- a list", "is not a configuration file"),
        ("a: [", "cannot be read"),
    ],
)
def test_an_unsupported_accelerate_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_processes({ACCELERATE_CONFIG: str(path)}, "cpu")


@pytest.mark.parametrize(("given", "per_rank"), [("4", "2"), ("4,2", "2"), ("1", "1"), ("", "1"), ("many", "1")])
def test_the_ranks_divide_the_threads(tmp_path: Path, given: str, per_rank: str) -> None:
    own = rank_environment({"OMP_NUM_THREADS": given}, Processes(2, sharded=False), 0, tmp_path / "meeting")
    assert own["OMP_NUM_THREADS"] == per_rank
