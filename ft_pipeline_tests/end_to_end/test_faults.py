"""Faults of disk and store under whole runs of `ft run`: each is one clear line, and the next run continues."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_pipeline.settings.raw_formats import CONVERSATIONAL
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.audit.tampering import flip
from ft_pipeline_tests.end_to_end.project import Finished, environment, ft, ft_json, small_project
from ft_pipeline_tests.end_to_end.ui import serving

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.waits]

DAY = 86_400
AHEAD = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {{
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += {DAY};
    return result;
}}
"""
LIGHT = ",".join(["raw_alpaca", "raw_sharegpt", "raw_chat", "raw_traces", *CONVERSATIONAL, "conversations"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=False).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def check_one_line_error(done: subprocess.CompletedProcess[str], expected: str) -> None:
    shown = done.stdout + done.stderr
    assert done.returncode == 1 and expected in shown, shown[-3000:]
    assert "Traceback" not in shown


def test_a_full_disk_is_a_one_line_error_and_a_rerun_continues(disk: Path, tmp_path: Path) -> None:
    root = small_project(tmp_path / "shop")
    (root / "data" / "store").symlink_to(disk, target_is_directory=True)
    check_one_line_error(ft(root, "run", "--experiment", "qlora"), "no space is left on the disk")
    store = ArtifactStore(disk)
    before = {artifact.path for artifact in store.all()}
    assert before and list((disk / "drafts").iterdir()) == []
    for artifact in store.all():
        store.verify(artifact.path, thorough=True)
    remount(disk, "size=400m")
    done = ft_json(root, "run", "--experiment", "qlora")
    assert done["succeeded"] and done["fresh"] > 0
    assert before <= {artifact.path for artifact in store.all()}


def test_a_read_only_store_can_be_read_and_a_run_says_so(disk: Path, tmp_path: Path) -> None:
    remount(disk, "size=400m")
    root = small_project(tmp_path / "shop")
    (root / "data" / "store").symlink_to(disk, target_is_directory=True)
    assert ft(root, "run", "--experiment", "qlora", "--select", LIGHT).returncode == 0
    query = "select count(*) from conversations"
    before = ft_json(root, "sql", query)
    path = root / "data" / "raw" / "alpaca" / "support_01.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    remount(disk, "ro")
    try:
        check_one_line_error(
            ft(root, "run", "--experiment", "qlora", "--select", LIGHT), "read-only file system; make it writable"
        )
        assert ft_json(root, "sql", query) == before
    finally:
        remount(disk, "rw")
    assert ft(root, "run", "--experiment", "qlora", "--select", LIGHT).returncode == 0


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that sets the clock a day ahead in the processes that load it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "ahead.c").write_text(AHEAD, encoding="utf-8")
    library = folder / "ahead.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "ahead.c", "-ldl"], check=True)
    return library


def test_correcting_a_clock_that_was_a_day_ahead_rebuilds_nothing(clock: Path, tmp_path: Path) -> None:
    """Artifacts with tomorrow's time stamps are reused, and later ones count as newer."""
    root = small_project(tmp_path / "shop")
    command = ("run", "--experiment", "qlora", "--select", LIGHT)
    assert ft(root, *command, LD_PRELOAD=str(clock)).returncode == 0
    stamped = AssetPointers(root / "data" / "store").read("conversations", None)
    for path in (*(root / "data").rglob("*"), root / "data"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime + DAY))
    again = ft_json(root, *command)
    assert (again["steps"], again["fresh"]) == ([], len(LIGHT.split(",")))
    path = root / "data" / "raw" / "alpaca" / "support_01.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    assert {step["state"] for step in ft_json(root, *command)["steps"]} == {"built"}
    newest = AssetPointers(root / "data" / "store").read("conversations", None)
    assert stamped and newest and newest.fingerprint != stamped.fingerprint
    assert newest.when < stamped.when, "the clock was not put back"
    assert ft_json(root, *command)["steps"] == []
    findings = json.loads(ft(root, "audit", "--verify", "--json").stdout)["findings"]
    assert {finding["code"] for finding in findings} == {"back_dated"}, findings
    ((rows,),) = ft_json(root, "sql", "select sum(accepted) from alpaca_files where file = 'support_01.jsonl'")["rows"]
    assert rows == len(path.read_bytes().splitlines())


def test_two_runs_of_one_experiment_at_once_build_everything_once(tmp_path: Path) -> None:
    root = small_project(tmp_path / "shop")
    command = [str(Path(sys.executable).parent / "ft"), "run", "--experiment", "qlora", "--json"]
    runs = [
        subprocess.Popen(command, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [run.communicate(timeout=900) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ends
    states = [{step["asset"]: step["state"] for step in json.loads(out)["steps"]} for out, _ in ends]
    for asset in ("base_model", "training_data", "adapter", "merged_model", "scores"):
        assert sorted(state[asset] for state in states) == ["built", "reused"], asset
    adapters = ArtifactStore(root / "data" / "store").all("adapter")
    assert len(adapters) == 1


def test_an_artifact_with_a_flipped_byte_is_detected_and_rebuilt(finished: Finished, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "shop"))
    older = folder_of(root, "adapter") / "adapter_model.safetensors"
    of_another_cpu = older.read_bytes()
    for command in (
        ("run", "--select", "adapter", "--force", "--experiment", "qlora"),
        ("run", "--experiment", "qlora"),
    ):
        assert ft(root, *command).returncode == 0
    if (damaged := folder_of(root, "adapter")) != older.parent:
        flip(older)  # it has the same spec, and would be found
    weights = damaged / "adapter_model.safetensors"
    intact = weights.read_bytes()
    flip(weights)
    flipped = weights.read_bytes()
    command, audit = ("run", "--experiment", "qlora"), ("audit", "qlora", "--verify")
    check_one_line_error(ft(root, *audit), "adapter_model.safetensors was changed")
    reasons = {step["asset"]: step["reason"] for step in ft_json(root, *command, "--plan")["plan"] if step["runs"]}
    assert reasons["adapter"] == "damaged or missing from the store"
    steps = {step["asset"]: step["state"] for step in ft_json(root, *command)["steps"]}
    assert steps.pop("adapter") == "built" and set(steps.values()) == {"reused"}
    rebuilt = folder_of(root, "adapter")
    assert rebuilt != damaged and (rebuilt / weights.name).read_bytes() == intact, "trained to the same bytes"
    assert weights.read_bytes() == flipped, "it stays as evidence"
    assert ft_json(root, *command)["steps"] == []
    check_one_line_error(ft(root, *audit), "adapter_model.safetensors was changed")
    shutil.copy(rebuilt / weights.name, weights)
    if damaged != older.parent:
        older.write_bytes(of_another_cpu)
    assert ft(root, *audit).returncode == 0


def folder_of(root: Path, kind: str) -> Path:
    """The folder of qlora's current artifact of `kind`, which is intact."""
    store = ArtifactStore(root / "data" / "store")
    pointer = AssetPointers(store.root).read(kind, "qlora")
    assert pointer is not None
    return store.require(kind, pointer.fingerprint).path


def test_a_first_run_and_the_ui_can_start_at_once(tmp_path: Path) -> None:
    """Neither disturbs the other while Dagster's tables are created."""
    root = small_project(tmp_path / "shop")
    command = [str(Path(sys.executable).parent / "ft"), "run", "--select", LIGHT, "--json"]
    run = subprocess.Popen(command, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with serving(root) as ui:
        output, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors[-3000:] + output
        assert [record["status"] for record in ui.runs()] == ["SUCCESS"]
