"""The UI in a real browser shows running, waiting, failed, recovered and new experiments as they are."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ft_pipeline_tests.end_to_end.project import ft, small_project, write_experiment
from ft_pipeline_tests.end_to_end.test_kills import BEFORE, NEVER_STOPS_EARLY
from ft_pipeline_tests.end_to_end.ui import Ui, chromium, serving, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.waits,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium"),
]
PATIENCE = 180.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = small_project(tmp_path_factory.mktemp("runs") / "shop")
    for name, epochs in (("endless", 1000), ("short", 1)):
        write_experiment(
            project, name, project / "models" / "tiny", epochs=epochs, early_stopping_patience=NEVER_STOPS_EARLY
        )
    before = ft(project, "run", *["-e", "endless", "-e", "short", "--select"], ",".join(BEFORE))
    assert before.returncode == 0, before.stderr[-3000:]
    return project


@pytest.fixture(scope="module")
def ui(root: Path) -> Iterator[Ui]:
    with serving(root) as served:
        yield served


def status(ui: Ui, run_id: str) -> str:
    return next(run["status"] for run in ui.runs() if run["runId"] == run_id)


def wait_for_status(ui: Ui, run_id: str, wanted: str) -> None:
    wait_until(lambda: status(ui, run_id) == wanted, f"the run is {wanted}", PATIENCE)


def check_shown(page: Page, ui: Ui, run_id: str, shown: str) -> None:
    """Check the word for the status in the list of runs, in the row of the run."""
    page.goto(f"{ui.url}/runs", wait_until="domcontentloaded")
    row = page.locator("[class*=rowGrid]").filter(has_text=run_id[:8])
    row.get_by_text(shown, exact=False).first.wait_for(timeout=PATIENCE * 1000)


def test_running_and_waiting_runs_are_shown(ui: Ui, page: Page) -> None:
    running = ui.launch("endless", "adapter")
    wait_for_status(ui, running, "STARTED")
    waiting = ui.launch("short", "adapter")
    wait_for_status(ui, waiting, "QUEUED")
    check_shown(page, ui, running, "Started")
    check_shown(page, ui, waiting, "Queued")
    ui.terminate(running)
    wait_for_status(ui, waiting, "SUCCESS")
    check_shown(page, ui, running, "Canceled")
    check_shown(page, ui, waiting, "Success")


def test_a_new_experiment_appears_fails_with_its_reason_and_recovers(ui: Ui, root: Path, page: Page) -> None:
    """The file is written while the UI runs. Nobody reloads the definitions."""
    model = root / "models" / "lost"
    write_experiment(root, "lost", model)

    wait_until(lambda: "lost" in ui.partitions(), "the sensor has added the new experiment", PATIENCE)
    failed = ui.launch("lost", "experiment", "base_model")
    wait_for_status(ui, failed, "FAILURE")
    check_shown(page, ui, failed, "Failure")
    page.goto(f"{ui.url}/runs/{failed}", wait_until="domcontentloaded")
    page.get_by_text(str(model)).first.wait_for()

    shutil.copytree(root / "models" / "tiny", model)
    recovered = ui.launch("lost", "experiment", "base_model")
    wait_for_status(ui, recovered, "SUCCESS")
    check_shown(page, ui, recovered, "Success")
    page.goto(f"{ui.url}/assets/base_model?view=partitions", wait_until="domcontentloaded")
    page.get_by_text("lost", exact=True).first.wait_for()


def re_execute(ui: Ui, run_id: str, strategy: str) -> str:
    """What *Re-execute all* or *Re-execute from failure* does; the id of the new run."""
    mutation = """mutation($given: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $given) {
        __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    launched = ui.query(mutation, given={"parentRunId": run_id, "strategy": strategy})["launchRunReexecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    again: str = launched["run"]["runId"]
    return again


def test_a_failed_ft_run_is_executed_again(ui: Ui, root: Path, page: Page) -> None:
    """With the settings of today: a run from failure refuses a YAML that has changed since."""
    write_experiment(root, "tight", root / "models" / "tiny", max_length=24)
    steps = "experiment,base_model,training_data"
    assert ft(root, "run", "-e", "tight", "--select", steps).returncode == 1
    failed = ui.runs()[0]["runId"]
    page.goto(f"{ui.url}/runs/{failed}", wait_until="domcontentloaded")
    button = page.get_by_role("button", name=re.compile("Re-execute")).first
    button.wait_for()
    expect(button).to_be_enabled()

    page.goto(f"{ui.url}/assets/training_data?view=checks&checkDetail=no_over_length", wait_until="domcontentloaded")
    page.get_by_text("rows longer than the max_length of 24 tokens").first.wait_for()

    write_experiment(root, "tight", root / "models" / "tiny")
    refused = re_execute(ui, failed, "FROM_FAILURE")
    wait_for_status(ui, refused, "FAILURE")
    page.goto(f"{ui.url}/runs/{refused}", wait_until="domcontentloaded")
    page.get_by_text("experiments/tight.yaml has changed since the run that failed").first.wait_for()
    again = re_execute(ui, failed, "ALL_STEPS")
    wait_for_status(ui, again, "SUCCESS")
