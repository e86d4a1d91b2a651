"""`ft run` is killed at ten random moments; the next `ft run`, or a tick of the daemon, ends what was left behind.

The moments lie before the first step, between steps and in a step. The code server and the web server of `ft ui` are
killed while a run that they started is under way.
"""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ft_pipeline.execution.run_overview import ACTIVE
from ft_pipeline_tests.end_to_end.project import environment, ft, small_project, workers, write_experiment
from ft_pipeline_tests.end_to_end.test_kills import BEFORE, NEVER_STOPS_EARLY
from ft_pipeline_tests.end_to_end.ui import serving, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.waits]
PATIENCE = 180.0
KILLS = 5
"""Number of random kills without a daemon, and with one."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small_project(tmp_path_factory.mktemp("random") / "shop", variants=False)
    for path in (root / "experiments").glob("*.yaml"):
        path.unlink()
    write_experiment(root, "endless", root / "models" / "tiny", epochs=1000, early_stopping_patience=NEVER_STOPS_EARLY)
    assert ft(root, "run", "--select", ",".join(BEFORE)).returncode == 0
    return root


@pytest.fixture
def instance(shop: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(shop / "dagster_home")) as opened:
        yield opened


def kill_at_random(root: Path, instance: dg.DagsterInstance, generator: random.Random) -> None:
    """Kill an `ft run` some time after its Dagster run exists: within its first steps, or while it trains."""
    known = set(instance.get_run_ids())
    command = [str(Path(sys.executable).parent / "ft"), "run", "--force", "--select", "raw_alpaca,alpaca,adapter"]
    run = subprocess.Popen(command, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until_fast(lambda: set(instance.get_run_ids()) - known)
    time.sleep(generator.choice([0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]) * generator.random())
    run.kill()
    run.wait()


def wait_until_fast(condition: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def under_way(instance: dg.DagsterInstance) -> list[str]:
    return [run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=ACTIVE))]


def test_the_next_run_ends_what_a_kill_left(shop: Path, instance: dg.DagsterInstance) -> None:
    generator = random.Random(1)
    for _ in range(KILLS):
        kill_at_random(shop, instance, generator)
        assert ft(shop, "run", "--select", "raw_alpaca").returncode == 0
        assert under_way(instance) == []
    wait_until(lambda: not workers(shop), "no worker is left", PATIENCE)


def test_a_tick_of_the_daemon_ends_what_a_kill_left(shop: Path, instance: dg.DagsterInstance) -> None:
    generator = random.Random(2)
    with serving(shop) as ui:
        for _ in range(KILLS):
            kill_at_random(shop, instance, generator)
            wait_until(lambda: not under_way(instance), "a tick ended the run", PATIENCE)
        left = ui.launch("endless", "adapter")
        wait_until(lambda: workers(shop), "the run trains", PATIENCE)
        for server in processes_of_the_ui(shop):
            server.kill()
    wait_until(lambda: not workers(shop), "no worker is left", PATIENCE)
    assert ft(shop, "run", "--select", "raw_alpaca").returncode == 0
    run = instance.get_run_by_id(left)
    assert run is not None and run.status == dg.DagsterRunStatus.FAILURE and under_way(instance) == []


def processes_of_the_ui(root: Path) -> list[psutil.Process]:
    """The web server of `ft ui`, its daemon and its code server, with the processes of runs."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.environ().get("FT_PROJECT") == str(root) and "pytest" not in line and "worker" not in line:
                found.append(process)
    return found
