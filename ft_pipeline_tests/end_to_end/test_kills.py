"""Every process of a deployment is killed once during a real training: no process is orphaned, no device stays taken,
no artifact is partial, and the next run resumes from the last checkpoint."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ft_pipeline.execution.workers.device_leases import device_locks
from ft_pipeline.execution.workers.device_line import DeviceUse, device_uses
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.end_to_end.project import environment, ft, small_project, workers, write_experiment
from ft_pipeline_tests.end_to_end.services import Services, services
from ft_pipeline_tests.end_to_end.ui import Ui, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.waits]

BEFORE = (
    *("raw_alpaca", "raw_sharegpt", "raw_text", "raw_preferences", "raw_unlabelled"),
    *("alpaca", "sharegpt", "text", "preferences", "unlabelled", "conversations", "teacher_answers", "distilled"),
    *("experiment", "base_model", "training_data", "memory_estimate"),
)
PATIENCE = 120.0
NEVER_STOPS_EARLY = 10_000


@dataclass(frozen=True)
class Training:
    """A run whose trainer is running."""

    run_id: str
    worker: psutil.Process
    """The run's process, which is also that of the step."""
    trainer: psutil.Process
    family: list[psutil.Process]
    """The run's process and everything below it."""
    resumed_from: int

    def all_gone(self) -> bool:
        return not any(_alive(process) for process in self.family)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Shop:
    """A deployment over a small project that the tests break one after another."""

    def __init__(self, group: Services) -> None:
        self.group = group
        self.store = ArtifactStore(group.root / "data" / "store")

    @property
    def ui(self) -> Ui:
        return self.group.ui()

    def train(self, experiment: str = "endless") -> Training:
        """Launch a run and wait until it has written a checkpoint that was not there before."""
        before = self.last_checkpoint()
        run_id = wait_until(lambda: self.launch(experiment), "the code server takes a run", PATIENCE)
        wait_until(lambda: self.last_checkpoint() > before, "another checkpoint", 2 * PATIENCE)
        trainer = workers(self.group.root)[-1]
        worker = next(process for process in trainer.parents() if "spawn_main" in " ".join(process.cmdline()))
        return Training(run_id, worker, trainer, [worker, *worker.children(recursive=True)], before)

    def launch(self, experiment: str) -> str | None:
        """A run's id; None if the code server, which an earlier test killed, has not restarted yet."""
        with contextlib.suppress(AssertionError):
            return self.ui.launch(experiment, "adapter")
        return None

    def last_checkpoint(self) -> int:
        """The step of the newest complete checkpoint; 0 where there is none."""
        completion_marks = self.store.root.glob("work/adapter/*/checkpoints/checkpoint-*/complete.json")
        return max((int(path.parent.name.partition("-")[2]) for path in completion_marks), default=0)

    def check(self, training: Training, status: str) -> None:
        """Check what must be true after every kill, and print how long it took: `pytest -rP` shows it."""
        began = time.monotonic()
        wait_until(training.all_gone, "every process of the run ended", 30)
        print(f"processes gone after {time.monotonic() - began:.1f} s")
        wait_until(lambda: self.status(training.run_id) == status, f"the run is {status}", PATIENCE)
        print(f"run {status} after {time.monotonic() - began:.1f} s")
        wait_until(lambda: not self.device_uses(), "the device is free", PATIENCE)
        print(f"device free after {time.monotonic() - began:.1f} s, checkpoint of step {self.last_checkpoint()}")
        assert self.last_checkpoint() > training.resumed_from
        assert not list(self.store.root.glob("artifacts/adapter/*/*/manifest.json"))

    def device_uses(self) -> list[DeviceUse]:
        return device_uses(device_locks(self.store.root))

    def status(self, run_id: str) -> str:
        return next(run["status"] for run in self.ui.runs() if run["runId"] == run_id)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = small_project(tmp_path_factory.mktemp("kills") / "shop")
    for name, epochs in (("endless", 1000), ("short", 20), ("brief", 1)):
        write_experiment(root, name, root / "models" / "tiny", epochs=epochs, early_stopping_patience=NEVER_STOPS_EARLY)
    before = ft(root, "run", *["-e", "endless", "-e", "short", "-e", "brief", "--select"], ",".join(BEFORE))
    assert before.returncode == 0, before.stderr[-3000:]
    with services(root, tmp_path_factory.mktemp("opt"), "code", "daemon", "webserver") as group:
        yield Shop(group)
    shutil.rmtree(root)


def test_a_canceled_run_ends_with_all_its_processes(shop: Shop) -> None:
    training = shop.train()
    shop.ui.terminate(training.run_id)
    shop.check(training, "CANCELED")


def test_a_killed_trainer_fails_the_run(shop: Shop) -> None:
    training = shop.train()
    training.trainer.kill()
    shop.check(training, "FAILURE")


def test_a_killed_run_process_fails_the_run(shop: Shop) -> None:
    training = shop.train()
    training.worker.kill()
    shop.check(training, "FAILURE")


def test_a_run_survives_a_killed_daemon_and_web_server(shop: Shop) -> None:
    training = shop.train()
    for name in ("daemon", "webserver"):
        shop.group.kill(name)
    before = shop.last_checkpoint()
    wait_until(lambda: shop.last_checkpoint() > before, "training continues without them", PATIENCE)
    shop.group.start("daemon", "webserver")
    assert shop.status(training.run_id) == "STARTED"
    shop.ui.terminate(training.run_id)
    shop.check(training, "CANCELED")


def test_a_killed_code_server_fails_the_run(shop: Shop) -> None:
    """systemd then ends the rest of the service and restarts it."""
    training = shop.train()
    left = shop.group.members(shop.group.running["code"].pid)
    shop.group.kill("code")
    for pid in left:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGTERM)
    wait_until(training.all_gone, "every process of the run ended", 60)
    wait_until(lambda: not any(map(psutil.pid_exists, left)), "the service is gone", 60)
    shop.group.start("code")
    shop.check(training, "FAILURE")


def test_a_restart_of_all_services_fails_the_run(shop: Shop) -> None:
    training = shop.train()
    for name in ("webserver", "daemon", "code"):
        shop.group.stop(name)
    shop.group.start("code", "daemon", "webserver")
    shop.check(training, "FAILURE")


def test_after_a_kill_the_next_run_resumes_and_succeeds(shop: Shop) -> None:
    shutil.rmtree(shop.store.root / "work" / "adapter", ignore_errors=True)  # the other experiment's checkpoints
    training = shop.train("short")
    training.trainer.kill()
    shop.check(training, "FAILURE")
    before = shop.last_checkpoint()
    shop.ui.launch("short", "adapter")
    assert shop.ui.wait_for_run(4 * PATIENCE)["status"] == "SUCCESS"
    (adapter,) = shop.store.all("adapter")
    assert adapter.summary["resumed_from_step"] == before > 0
    shop.store.verify(adapter.path, thorough=True)
    assert list((shop.store.root / "drafts").iterdir()) == []


def test_other_runs_wait_for_the_slot_and_say_so(shop: Shop, tmp_path: Path) -> None:
    """One training runs at a time, started by the UI or by `ft run`. The others say what they wait for."""
    training = shop.train()
    from_ui = shop.ui.launch("short", "adapter")
    with (tmp_path / "log").open("w") as log:
        command = [str(Path(sys.executable).parent / "ft"), "run", "-e", "brief", "--select", "adapter"]
        from_cli = subprocess.Popen(command, env=environment(shop.group.root), stdout=log, stderr=subprocess.STDOUT)
    read_log = (tmp_path / "log").read_text
    (use,) = shop.device_uses()
    assert use.holder is not None and f"of run {training.run_id[:8]}" in use.holder
    waits = "adapter [brief]: waiting: the CPU slot is in use by process "
    wait_until(lambda: waits in read_log(), "ft run says that it waits", PATIENCE)
    wait_until(lambda: shop.status(from_ui) == "QUEUED", "the run of the UI waits", PATIENCE)
    assert workers(shop.group.root)[-1] == training.trainer and len(workers(shop.group.root)) == 2
    shop.ui.terminate(training.run_id)
    assert from_cli.wait(timeout=PATIENCE) == 0
    wait_until(lambda: shop.status(from_ui) == "SUCCESS", "the run of the UI has trained", PATIENCE)
