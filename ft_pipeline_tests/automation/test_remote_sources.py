"""Remote sources in a project: runs download, plans do not, the sensor notices, and secrets are in no file of it."""

import gc
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_pipeline import scaffold
from ft_pipeline.cli import app
from ft_pipeline.execution.planning import plan
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.sources import fetch
from ft_pipeline.sources.declaration import read_source
from ft_pipeline.sources.fetch import ASK_SECONDS
from ft_pipeline.sources.records import SourceRecords
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.automation.simulated import Simulation, rows
from ft_pipeline_tests.graph import ASSETS
from ft_pipeline_tests.remote.file_server import FileServer, file_server
from ft_pipeline_tests.remote.remote_folder import files_with

SECRET = "geheim-e5c0"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("FT_SOURCE_TOKEN", SECRET)
    monkeypatch.setattr(fetch, "RETRY_PAUSES", (0.0,))
    with file_server() as running:
        yield running


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer) -> Iterator[Simulation]:
    """A project whose only raw file is remote."""
    root = scaffold.create(tmp_path / "shop", example=True)
    for path in (root / "data" / "raw").glob("*/*.*"):
        path.unlink()
    (root / "data" / "raw" / "alpaca" / "support.yaml").write_text(
        f"source: {server.url}/support.jsonl\ncolumns: {{question: instruction}}\n"
    )
    serve(server, 40, etag="one")
    monkeypatch.setenv("FT_PROJECT", str(root))
    gc.collect()  # an earlier test's instance, if collected later, would remove what this one sets
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield Simulation(root, instance)


def serve(server: FileServer, count: int, etag: str) -> None:
    content = [{"question": row.pop("instruction"), **row} for row in rows(count, seed=count)]
    lines = "".join(json.dumps(row) + "\n" for row in content).encode()
    server.put("/support.jsonl", lines, etag=etag, token=SECRET)


def current(shop: Simulation, asset: str) -> Artifact:
    pointer = AssetPointers(shop.store.root).read(asset)
    assert pointer is not None
    return shop.store.require(pointer.kind, pointer.fingerprint)


def state(shop: Simulation, asset: str) -> str:
    return next(step.state for step in plan(shop.project, ["qlora"], shop.instance) if step.asset == asset)


def let_the_interval_pass(shop: Simulation) -> None:
    source = read_source(shop.project.raw_folder("alpaca") / "support.yaml")
    records = SourceRecords(shop.store.root)
    records.write(source, replace(records.read(source), asked=time.time() - ASK_SECONDS - 1))


def test_a_new_revision_is_noticed_downloaded_and_read(shop: Simulation, server: FileServer, tmp_path: Path) -> None:
    assert state(shop, "raw_alpaca") == "never_run" and server.requests == []
    tables = ["raw_alpaca", "raw_sharegpt", "alpaca", "sharegpt", "conversations"]
    assert shop.materialize(*tables)
    first = current(shop, "alpaca")
    assert (first.summary["read"], first.summary["accepted"]) == (40, 40), "the YAML maps the column"
    assert server.methods() == ["HEAD", "GET"]
    (listed,) = json.loads((current(shop, "raw_alpaca").path / "files.json").read_text())["files"]
    assert (listed["name"], listed["source"]) == ("support.jsonl", f"{server.url}/support.jsonl")
    assert listed["revision"] == '"one"'
    shop.settle()
    assert state(shop, "raw_alpaca") == "fresh" and server.requests == []
    serve(server, 50, etag="two")
    shop.settle()
    assert server.requests == [], "it was asked just now"
    let_the_interval_pass(shop)
    assert "raw_alpaca" in shop.settle() and server.methods() == ["HEAD", "HEAD", "GET"]
    assert current(shop, "alpaca").summary["accepted"] == 50
    assert shop.settle() == [] and server.requests == [] and state(shop, "alpaca") == "fresh"
    assert files_with(tmp_path, SECRET) == []


def test_a_server_that_is_down_leaves_the_earlier_snapshot(
    shop: Simulation, server: FileServer, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert shop.materialize("raw_alpaca", "alpaca")
    before = current(shop, "raw_alpaca")
    server.files["/support.jsonl"].status = 503
    let_the_interval_pass(shop)
    assert "answered 503" in str(shop.tick_sensor().skip_reason)
    assert not shop.tick_sensor().run_requests
    result = dg.materialize([ASSETS["raw_alpaca"]], instance=shop.instance, resources=RESOURCES, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    message = failure.step_failure_data.error.message
    assert f"{server.url}/support.jsonl cannot be read: 127.0.0.1 answered 503" in message
    assert current(shop, "raw_alpaca") == before and state(shop, "alpaca") == "fresh"
    assert shop.materialize("alpaca"), "the table is built from the earlier snapshot"
    assert SECRET not in "".join(capfd.readouterr()) and files_with(tmp_path, SECRET) == []


def test_a_yaml_with_a_source_is_validated_with_its_file(shop: Simulation, server: FileServer) -> None:
    path = shop.project.raw_folder("alpaca") / "support.yaml"
    result = CliRunner().invoke(app, ["validate", str(path), "--format", "alpaca", "--json"])
    report = json.loads(result.stdout)
    assert (report["file"], report["accepted"], result.exit_code) == ("support.jsonl", 40, 0)
    server.files.clear()
    result = CliRunner().invoke(app, ["validate", str(path), "--format", "alpaca"])
    assert result.exit_code != 0 and SECRET not in result.output + str(result.exception)
    path.write_text("source: file:///etc/passwd\n")
    result = CliRunner().invoke(app, ["validate", str(path), "--format", "alpaca"])
    assert result.exit_code != 0
    assert "local path: put the file itself into this folder" in result.output + str(result.exception)
