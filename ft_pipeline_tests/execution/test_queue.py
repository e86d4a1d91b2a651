"""Runs that wait for a device use no CPU, and leave nothing behind when they are killed or canceled."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from ft_pipeline.execution.device_pool import pool_of_devices, set_default_limit
from ft_pipeline.execution.wait_in_the_ui import MARKER
from ft_pipeline.execution.workers import device_leases
from ft_pipeline.execution.workers.device_line import DeviceUse, PlaceInLine, device_uses
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.execution.conftest import PATIENCE, ROOT, family_pids, wait_until

OLD_SETTINGS = "concurrency: {pools: {granularity: op, default_limit: 1}, runs: {max_concurrent_runs: 4}}\n"
"""Those of dagster.yaml in projects of older versions."""
MAX_SHARE = 0.05
"""Of a core, that a waiting run may use. Dagster's own wait uses all of it."""


@dataclass
class Runs:
    """Runs in processes of their own, over one instance and one store."""

    store: ArtifactStore
    instance: dg.DagsterInstance
    started: list[psutil.Popen] = field(default_factory=list)

    def start(self, kind: str, **config: Any) -> psutil.Popen:
        command = [sys.executable, "-m", "ft_pipeline_tests.execution.queue_subject", str(self.store.root), kind]
        env = {**os.environ, "DAGSTER_HOME": self.instance.root_directory}
        self.started.append(
            psutil.Popen([*command, json.dumps(config)], env=env, stderr=subprocess.DEVNULL, process_group=0)
        )
        return self.started[-1]

    def start_holder(self) -> psutil.Popen:
        """A run that has the device until it is killed."""
        holder = self.start("family")
        family_pids(self.store)
        return holder

    def start_waiting(self, name: str) -> psutil.Popen:
        """A run that has said that it waits."""
        run = self.start("count", steps=1, name=name)
        wait_until(lambda: self.waits_of(name), f"{name} says that it waits")
        return run

    def run_of(self, name: str) -> dg.DagsterRun | None:
        config = json.dumps({"steps": 1, "name": name})
        return next(iter(self.instance.get_runs(dg.RunsFilter(tags={"subject": config}))), None)

    def waits_of(self, name: str) -> list[str]:
        """What the event log of the run says about its wait."""
        run = self.run_of(name)
        entries = self.instance.all_logs(run.run_id) if run else []
        return [entry.message for entry in entries if entry.message.startswith("waiting: the CPU slot is in use")]

    def line(self) -> list[DeviceUse]:
        return device_uses(device_leases.device_locks(self.store.root))

    def kill(self) -> None:
        for run in self.started:
            if run.is_running():
                run.kill()
            run.wait(PATIENCE)


@pytest.fixture(params=["old", "shipped"])
def runs(store: ArtifactStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """An instance with the settings of a project, and with those of older versions."""
    home = tmp_path / "home"
    home.mkdir()
    if request.param == "shipped":
        shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home)
    else:
        (home / "dagster.yaml").write_text(OLD_SETTINGS)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        opened = Runs(store, instance)
        yield opened
        opened.kill()


def share_of_a_core(process: psutil.Popen, seconds: float = 4.0) -> float:
    """CPU seconds that a process uses per second."""
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)


@pytest.mark.long
def test_a_run_waits_without_using_the_cpu_and_leaves_nothing_when_it_ends(runs: Runs) -> None:
    """One run is killed while it waits, one is canceled. When the holder is killed, the third gets the device."""
    holder = runs.start_holder()
    killed = runs.start_waiting("killed")
    (use,) = runs.line()
    assert use.holder is not None and use.holder.startswith("adapter of run ")
    assert [job.rpartition(" ")[2] for job in use.waiting] == [f"{killed.pid})"]
    assert share_of_a_core(killed) < MAX_SHARE
    killed.kill()
    killed.wait(PATIENCE)

    canceled = runs.start_waiting("canceled")
    canceled.send_signal(signal.SIGINT)
    canceled.wait(PATIENCE)
    run = runs.run_of("canceled")
    assert run is not None and run.is_finished
    (use,) = runs.line()
    assert use.waiting == () and holder.is_running()

    waiting = runs.start_waiting("waiting")
    assert [len(use.waiting) for use in runs.line()] == [1]
    holder.kill()
    assert waiting.wait(PATIENCE) == 0
    assert [artifact.kind for artifact in runs.store.all()] == ["count"]
    waited = runs.run_of("waiting")
    assert waited is not None
    markers = [marker for stats in runs.instance.get_run_step_stats(waited.run_id) for marker in stats.markers]
    (wait,) = [marker for marker in markers if marker.key == MARKER]
    assert wait.end_time > wait.start_time, "the timeline in the UI shows the wait"
    assert runs.line() == [] and list((runs.store.root / "drafts").glob("count*")) == []


def test_the_first_that_waits_is_the_first_that_gets_the_device(tmp_path: Path) -> None:
    places = [PlaceInLine(tmp_path, f"job {number}") for number in range(3)]
    for place in reversed(places):
        place.enter(["cpu"])
    assert [place.ahead("cpu") for place in places] == [0, 1, 2]
    assert device_uses(tmp_path)[0].waiting == tuple(f"job {number} (process {os.getpid()})" for number in range(3))
    places[0].leave()
    assert [place.ahead("cpu") for place in places[1:]] == [0, 1]
    places[0].enter(["cpu", "other"])
    assert [place.ahead("cpu") for place in places] == [0, 1, 2]
    for place in places:
        place.leave()
    assert device_uses(tmp_path) == []


def test_assets_are_in_the_pool_only_where_the_daemon_queues_whole_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(ROOT / "dagster_home"))
    assert pool_of_devices() == "gpu"
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for settings in (OLD_SETTINGS, "concurrency: [", ""):
        (tmp_path / "dagster.yaml").write_text(settings)
        assert pool_of_devices() is None
    monkeypatch.setenv("FT_EXECUTOR", "k8s")
    assert pool_of_devices() == "gpu"


def limit(instance: dg.DagsterInstance) -> int | None:
    return next((pool.limit for pool in instance.event_log_storage.get_pool_limits() if pool.name == "gpu"), None)


def test_the_default_limit_follows_the_gpus_until_a_user_sets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", tmp_path)
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for gpus in (8, 4, 0):
            lines = "".join(f"echo '{index}, GPU-{index}, T4, 15360, 15000'\n" for index in range(gpus))
            program.write_text(f"#!/bin/sh\n{lines}")
            program.chmod(0o755)
            set_default_limit(instance)
            assert limit(instance) == max(1, gpus)
        instance.event_log_storage.set_concurrency_slots("gpu", 3)
        set_default_limit(instance)
        assert limit(instance) == 3


def test_a_default_in_the_settings_of_the_instance_stays(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(OLD_SETTINGS)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        set_default_limit(instance)
        assert limit(instance) is None and instance.global_op_concurrency_default_limit == 1
