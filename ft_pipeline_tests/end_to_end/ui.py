"""The Dagster UI as a user sees it: `ft ui` in a separate process, and Chromium as the browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from ft_pipeline_tests.end_to_end.project import environment

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
VIEW = {"width": 1700, "height": 950}
START_SECONDS = 120


def chromium() -> str | None:
    """Debian's Chromium, or None."""
    return shutil.which("chromium")


LAUNCH = """mutation($given: ExecutionParams!) { launchRun(executionParams: $given) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""


@dataclass(frozen=True)
class Ui:
    """A running UI."""

    url: str

    def query(self, text: str, **variables: Any) -> Any:
        """The data of a GraphQL answer."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]

    def runs(self) -> list[dict[str, Any]]:
        """Runs, newest first."""
        answer = self.query("{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }")
        return answer["runsOrError"]["results"]

    def launch(self, experiment: str | None, *assets: str, config: Mapping[str, Any] | None = None) -> str:
        """What *Launch run* does, for these assets; the run's id. config: what the launchpad contains."""
        selector = {
            "repositoryLocationName": "ft_pipeline",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]} for asset in assets],
        }
        tags = [{"key": "dagster/partition", "value": experiment}] if experiment else []
        given = {"selector": selector, "executionMetadata": {"tags": tags}, "runConfigData": config or {}}
        launched = self.query(LAUNCH, given=given)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched.get("message")
        return launched["run"]["runId"]

    def terminate(self, run_id: str) -> None:
        """What *Terminate* does."""
        ended = self.query(
            "mutation($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }",
            id=run_id,
        )["terminateRun"]
        assert ended["__typename"] == "TerminateRunSuccess", ended

    def partitions(self) -> list[str]:
        """The experiments that can be chosen in the dialog of a launch."""
        query = "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ...on AssetNode { partitionKeys } } }"
        keys: list[str] = self.query(query, key={"path": ["adapter"]})["assetNodeOrError"]["partitionKeys"]
        return keys

    def wait_for_run(self, seconds: float) -> dict[str, Any]:
        """The newest run, once it has ended."""

        def ended() -> dict[str, Any] | None:
            runs = self.runs()
            return runs[0] if runs and runs[0]["status"] in {"SUCCESS", "FAILURE", "CANCELED"} else None

        return wait_until(ended, "a run ended", seconds)


def wait_until(condition: Callable[[], Any], what: str, seconds: float) -> Any:
    """Wait until `condition` returns something, and return that. `seconds` is patience, not a requirement of speed."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)
    return result


@contextmanager
def serving(root: Path, *options: str) -> Iterator[Ui]:
    """`ft ui` on a free port, ready when the code location is loaded; ended with all its processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "ft"), "ui", "--port", str(port), *options]
    with (root / "ui.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment(root), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        ui = Ui(f"http://127.0.0.1:{port}")
        wait_until_loaded(ui, server)
        yield ui
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def wait_until_loaded(ui: Ui, server: subprocess.Popen[bytes]) -> None:
    """Wait until the web server answers and knows the assets."""

    def loaded() -> bool:
        assert server.poll() is None, "the UI ended; see its log"
        try:
            return bool(ui.query("{ assetNodes { assetKey { path } } }")["assetNodes"])
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    wait_until(loaded, "the UI came up; see its log", START_SECONDS)


@contextmanager
def browsing() -> Iterator[Browser]:
    """Headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_lineage(page: Page, ui: Ui) -> None:
    """The global lineage, drawn."""
    page.goto(f"{ui.url}/asset-groups", wait_until="domcontentloaded")
    page.get_by_role("button", name="Materialize all").wait_for()
    page.wait_for_function("document.querySelectorAll('foreignObject').length > 5")


TOO_WIDE = """async () => {
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
  const wide = [];
  for (const element of document.querySelectorAll('table, td, table div, table p, table ul')) {
    const box = element.parentElement;
    const pixels = Math.max(box.scrollWidth - box.clientWidth, element.scrollWidth - element.clientWidth);
    if (box.clientWidth && element.clientWidth && pixels > 2)
      wide.push(`${pixels} pixels: ${element.innerText.slice(0, 60)}`);
  }
  return wide.slice(0, 3);
}"""


def too_wide(page: Page, ui: Ui, asset: str) -> list[str]:
    """The first values that are wider than their place on the page of an asset."""
    page.goto(f"{ui.url}/assets/{asset}", wait_until="domcontentloaded")
    entries = page.locator("table").filter(has=page.get_by_text("Timestamp", exact=True)).first.locator("tbody tr")
    entries.first.wait_for()
    return page.evaluate(TOO_WIDE)


def materialize_all(page: Page, ui: Ui, experiment: str) -> None:
    """*Materialize all*, one experiment chosen in the dialog, launched as one run."""
    open_lineage(page, ui)
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Select a partition").click()
    page.get_by_placeholder("Filter partitions").fill(experiment)
    page.get_by_role("menuitem").filter(has_text=experiment).last.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
