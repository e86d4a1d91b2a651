"""A week with a real `dagster dev`, compressed: each day takes a minute, and the nightly schedule runs every
minute. Rows arrive, a YAML is broken for a day, the daemon is killed, then the code server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.scheduler.instigation import InstigatorTick, InstigatorType, TickStatus

from ft_pipeline.automation.notifications import LOG
from ft_pipeline.execution.run_overview import ACTIVE
from ft_pipeline_tests.automation.simulated import rows
from ft_pipeline_tests.automation.webhook import Webhook, webhook
from ft_pipeline_tests.end_to_end.project import environment, ft, small_project
from ft_pipeline_tests.end_to_end.ui import Ui, wait_until, wait_until_loaded

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.story, pytest.mark.waits]

DAY_SECONDS = 60.0
PATIENCE = 900.0
NEW_ROWS = 24
MIN_NEW_ROWS = 10


@dataclass
class Week:
    """A project, and the `dagster dev` that runs over it."""

    root: Path
    log: list[str] = field(default_factory=list)

    @contextmanager
    def served(self) -> Iterator[subprocess.Popen[bytes]]:
        """`dagster dev`, ready when the code location is loaded; ended with all its processes."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(Path(sys.executable).parent / "dagster"), "dev", "-w", "workspace.yaml", "-p", str(port)]
        with (self.root / "dev.log").open("ab") as log:
            server = subprocess.Popen(
                [*command, "-h", "127.0.0.1"],
                cwd=self.root,
                env=environment(self.root),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until_loaded(Ui(f"http://127.0.0.1:{port}"), server)
            yield server
        finally:
            server.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                server.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)

    def kill(self, part: str) -> None:
        """kill −9 of the processes of this project whose command contains `part`."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get("FT_PROJECT") == str(self.root)
                if ours and part in " ".join(process.cmdline()):
                    process.kill()

    def day(self, new_rows: int = 0) -> None:
        """One day; its rows arrive in the middle."""
        time.sleep(DAY_SECONDS / 4)
        if new_rows:
            self.add_rows(new_rows)
        time.sleep(3 * DAY_SECONDS / 4)

    def add_rows(self, count: int) -> None:
        folder = self.root / "data" / "raw" / "alpaca"
        number = len(list(folder.glob("*.jsonl")))
        with (folder / f"day{number}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows(count, seed=number):
                file.write(json.dumps(row) + "\n")
                file.flush()
                time.sleep(0.1)

    def break_yaml(self) -> Path:
        path = self.root / "experiments" / "broken.yaml"
        path.write_text("tecnique: lora\n", encoding="utf-8")
        return path

    def notifications(self) -> list[dict[str, str]]:
        path = self.root / "data" / "store" / LOG
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def week(tmp_path: Path) -> Week:
    root = small_project(tmp_path / "shop", variants=False)
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["retraining"] = {"schedule": "* * * * *", "min_new_rows": MIN_NEW_ROWS}
    (root / "project.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    path = root / "experiments" / "qlora.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "retrain: true\n", encoding="utf-8")
    first = ft(root, "run")
    assert first.returncode == 0, first.stderr[-3000:]
    return Week(root)


def test_a_week(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as hook:
        monkeypatch.setenv("FT_WEBHOOK_URL", hook.url)
        live(week)
        with dg.DagsterInstance.from_config(str(week.root / "dagster_home")) as instance:
            show(week, instance)
            require_that_each_run_ended_once_and_was_reported(week, instance, hook)
            require_that_nothing_was_trained_twice(instance)
            require_that_each_tick_says_why(instance)
    assert ft(week.root, "run", "--plan").stdout, "the project still opens"


def live(week: Week) -> None:
    """Seven days, and then as many minutes as the last training takes."""
    with week.served() as server:
        week.day(NEW_ROWS)
        broken = week.break_yaml()
        week.day(NEW_ROWS)
        broken.unlink()
        week.day(MIN_NEW_ROWS // 2)
        week.add_rows(NEW_ROWS)
        wait_until(lambda: under_way(week), "a night has requested a run", PATIENCE)
        week.kill("dagster._daemon")
        assert server.wait(60) is not None, "dagster dev ends with its daemon"
    with week.served():
        week.day(NEW_ROWS)
        week.kill("dagster code-server start")
        week.kill("dagster api grpc")
        week.day()
        week.day(NEW_ROWS)
        week.day()
        wait_until(lambda: is_quiet(week), "a night finds nothing to do, and no run is under way", PATIENCE)


def ticks(instance: dg.DagsterInstance) -> Sequence[InstigatorTick]:
    """The ticks of `nightly`, oldest first."""
    (state,) = [
        state
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
        if state.name == "nightly"
    ]
    return instance.get_ticks(state.instigator_origin_id, state.selector_id)[::-1]


def under_way(week: Week) -> bool:
    with dg.DagsterInstance.from_config(str(week.root / "dagster_home")) as instance:
        return any(run.job_name == "retraining" for run in instance.get_runs(dg.RunsFilter(statuses=ACTIVE)))


def is_quiet(week: Week) -> bool:
    with dg.DagsterInstance.from_config(str(week.root / "dagster_home")) as instance:
        if instance.get_runs(dg.RunsFilter(statuses=ACTIVE)):
            return False
        reason = ticks(instance)[-1].skip_reason or ""
    return reason == "qlora: nothing has changed since the last training" or "new rows, at least" in reason


def nightly_runs(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(tags={"dagster/schedule_name": "nightly"}))[::-1]


def trained(instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    """(run, fingerprint) of each adapter that was built, and not found in the store."""
    records = instance.fetch_materializations(dg.AssetKey("adapter"), limit=1000).records
    built = []
    for record in records:
        event = record.asset_materialization
        assert event is not None and event.tags is not None
        if event.metadata["result"].value == "built":
            built.append((record.run_id, event.tags["dagster/data_version"]))
    return built[::-1]


def require_that_each_run_ended_once_and_was_reported(week: Week, instance: dg.DagsterInstance, hook: Webhook) -> None:
    assert instance.get_runs(dg.RunsFilter(statuses=ACTIVE)) == []
    failed = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))}
    reports = [entry for entry in week.notifications() if entry["kind"] in {"run_failed", "gate_failed"}]
    assert Counter(entry["run_id"] for entry in reports) == Counter(failed)
    missed = [entry["message"] for entry in week.notifications() if entry["kind"] == "not_trained"]
    assert any(message.startswith("broken: broken.yaml: line 1: unknown key") for message in missed)
    assert not [message for message, count in Counter(missed).items() if count > 1]
    assert len(hook.messages) >= len(reports) + len(missed)


def require_that_nothing_was_trained_twice(instance: dg.DagsterInstance) -> None:
    built = trained(instance)
    assert len(built) >= 2, "the first run, and at least one of the days"
    assert [version for version, count in Counter(version for _, version in built).items() if count > 1] == []
    keys = Counter(run.tags["dagster/run_key"] for run in nightly_runs(instance))
    assert [key for key, count in keys.items() if count > 1] == []


def require_that_each_tick_says_why(instance: dg.DagsterInstance) -> None:
    for tick in ticks(instance):
        assert tick.status in {TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE}
        assert tick.run_ids or tick.skip_reason or (tick.error and "reach" in tick.error.message)


def show(week: Week, instance: dg.DagsterInstance) -> None:
    """Print what happened: `pytest -rP` shows it."""
    for tick in ticks(instance):
        what = tick.skip_reason or (f"requested {len(tick.run_ids)}" if tick.run_ids else tick.error)
        print(time.strftime("%H:%M", time.gmtime(tick.timestamp)), tick.status.value, str(what)[:150])
    for run in nightly_runs(instance):
        print(run.run_id[:8], run.status.value, run.tags.get("ft/reason"), run.tags["dagster/run_key"])
    print("trained:", [(run_id[:8], version[:8]) for run_id, version in trained(instance)])
    for entry in week.notifications():
        print(entry["time"], entry["kind"], str(entry["message"])[:150])
