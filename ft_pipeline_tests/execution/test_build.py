"""From a spec to an artifact: it is reused, built, resumed or refused."""

import logging
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.events import Progress, listening
from ft_pipeline.execution.build import build_artifact, hub_environment
from ft_pipeline.execution.workers.launchers import LocalLauncher, usable_cores, worker_environment
from ft_pipeline.execution.workers.supervisor import WorkerError
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec


def test_progress_and_log_lines_arrive_and_a_second_build_is_reused(
    store: ArtifactStore, launcher: LocalLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reports: list[Progress] = []
    spec = Spec("count", config={"steps": 6})
    with listening(Progress, reports.append):
        built = build_artifact(None, store, spec, device=True, launcher=launcher)
        again = build_artifact(None, store, spec, device=True, launcher=launcher)
    assert (built.reused, again.reused) == (False, True)
    assert again.artifact.path == built.artifact.path
    assert built.artifact.summary == {"steps": 6, "resumed_from": 0, "device": built.artifact.manifest["run"]["device"]}
    assert (built.artifact.path / "count.txt").read_text() == "6"
    assert (reports[0].step, reports[-1].step, reports[-1].total) == (1, 6, 6)
    assert reports[-1].values == {"loss": pytest.approx(1 / 6)}
    assert "count: starting at step 0" in caplog.messages
    run = built.artifact.manifest["run"]
    assert run["started_by"] == "python" and run["peak_rss_bytes"] > 1e6 and run["seconds"] > run["worker_seconds"] > 0


def test_build_times_do_not_change_the_artifact(store: ArtifactStore, launcher: LocalLauncher) -> None:
    spec = Spec("count", config={"steps": 2})
    first = build_artifact(None, store, spec, launcher=launcher)
    forced = build_artifact(None, store, spec, launcher=launcher, force=True)
    assert (first.reused, forced.reused) == (False, False)
    assert forced.artifact.path == first.artifact.path, "the same content is the same artifact"


def test_a_user_error_in_a_worker_is_one_sentence(store: ArtifactStore, launcher: LocalLauncher) -> None:
    with pytest.raises(UserError, match=r"^learning_rate is 7: choose one under 1$"):
        build_artifact(None, store, Spec("refuse"), launcher=launcher)
    assert list((store.root / "drafts").iterdir()) == []


def test_what_unfinished_attempts_at_a_training_took_is_in_its_next_manifest(store: ArtifactStore) -> None:
    def fail(spec: Spec, inputs: object, out: Path) -> dict[str, Any]:
        raise UserError("it does not fit")

    def make(spec: Spec, inputs: object, out: Path) -> dict[str, Any]:
        (out / "size.txt").write_text(str(spec.config["size"]), encoding="utf-8")
        return {}

    def train(experiment: str, size: int, build: Any = make, *, again: bool = False) -> dict[str, Any]:
        spec = Spec("adapter", config={"size": size})
        found = build_artifact(None, store, spec, build=build, run_info={"experiment": experiment}, force=again)
        told: dict[str, Any] = found.artifact.manifest["run"]
        return told

    for size in (8, 8, 4):
        with pytest.raises(UserError, match="does not fit"):
            train("lora", size, fail)
    assert "unfinished" not in train("qlora", 1)
    unfinished = train("lora", 2)["unfinished"]
    assert unfinished["attempts"] == 3 and unfinished["device_seconds"] == unfinished["seconds"] > 0
    assert "unfinished" not in train("lora", 3), "an artifact tells them already"
    with pytest.raises(UserError):
        train("lora", 9, fail)
    train("lora", 3, again=True)
    assert train("lora", 10)["unfinished"]["attempts"] == 1, "an artifact that was there tells no attempt"
    (attempts := store.root / "work" / "unfinished" / "adapter.lora" / "attempts.jsonl").mkdir(parents=True)
    assert "unfinished" not in train("lora", 11), "a file that cannot be read ends no run"
    attempts.rmdir()
    with pytest.raises(UserError):
        build_artifact(None, store, Spec("table", config={"size": 1}), build=fail, run_info={"experiment": "lora"})
    assert list((store.root / "work").rglob("*.jsonl")) == [], "a table is no training"


def test_only_steps_that_need_a_download_may_reach_the_hub(
    store: ArtifactStore, launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert build_artifact(None, store, Spec("hub"), launcher=launcher).artifact.summary == {"offline": True}
    offline = {"HF_HUB_OFFLINE": "1"}
    assert hub_environment(Spec("base_model", config={"model": "someone/some-model"})) == {}
    assert hub_environment(Spec("adapter", config={"model": "someone/some-model"})) == offline
    for model in ("embedded", str(tmp_path)):
        assert hub_environment(Spec("base_model", config={"model": model})) == offline
    for kind in ("prompt_baseline", "scores"):
        assert hub_environment(Spec(kind, config={"evaluation": {"tasks": ["arc_easy"]}})) == {}
        assert hub_environment(Spec(kind, config={"evaluation": {"tasks": []}})) == offline
    merged = {"merged_model": ("merged_model", "f" * 64)}
    assert hub_environment(Spec("base_model", merged, {"model": "merged:first"})) == offline


def test_a_full_disk_is_a_user_error(store: ArtifactStore, launcher: LocalLauncher) -> None:
    with pytest.raises(UserError, match="no space is left"):
        build_artifact(None, store, Spec("full_disk"), launcher=launcher)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_full_for_an_error_message_is_reported(disk: Path, launcher: LocalLauncher) -> None:
    store = ArtifactStore(disk)
    with pytest.raises(UserError, match="no space is left"):
        build_artifact(None, store, Spec("fill"), launcher=launcher)

    def fill(spec: Spec, inputs: object, out: Path) -> dict:
        (out / "all.bin").write_bytes(b"x" * 2_000_000)
        return {}

    with pytest.raises(UserError, match="no space is left"):
        build_artifact(None, store, Spec("table"), build=fill)
    assert list((disk / "drafts").iterdir()) == []


def test_a_crash_keeps_its_traceback(store: ArtifactStore, launcher: LocalLauncher) -> None:
    with pytest.raises(WorkerError, match="exit code 1: ZeroDivisionError: division by zero") as caught:
        build_artifact(None, store, Spec("crash"), launcher=launcher)
    assert caught.value.exit_code == 1
    assert "about to divide" in caught.value.log_tail
    assert "fake_jobs.py" in caught.value.log_tail


def test_a_worker_that_ends_without_a_result_is_an_error(store: ArtifactStore, launcher: LocalLauncher) -> None:
    with pytest.raises(WorkerError, match="without a result"):
        build_artifact(None, store, Spec("leave"), launcher=launcher)
    assert store.all() == []


def test_a_kind_without_a_worker_function_is_an_error(store: ArtifactStore, launcher: LocalLauncher) -> None:
    with pytest.raises(WorkerError, match="no worker function for 'nothing'; known: busy, count"):
        build_artifact(None, store, Spec("nothing"), launcher=launcher)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGSEGV, "killed by SIGSEGV"),
        (signal.SIGTERM, "the worker was interrupted"),
    ],
)
def test_a_killed_worker_is_reported_and_the_next_build_resumes(
    store: ArtifactStore, launcher: LocalLauncher, number: signal.Signals, message: str
) -> None:
    """SIGTERM asks the worker to stop, as SIGINT does."""
    spec = Spec("count", config={"steps": 8, "die_at": 5, "signal": int(number)})
    with pytest.raises(WorkerError, match=message):
        build_artifact(None, store, spec, launcher=launcher)
    assert store.find(spec) is None
    built = build_artifact(None, store, spec, launcher=launcher)
    assert built.artifact.summary["resumed_from"] == 5
    assert not (store.root / "work" / "count" / spec.hash[:16]).exists()


def test_force_ignores_the_checkpoint(store: ArtifactStore, launcher: LocalLauncher) -> None:
    spec = Spec("count", config={"steps": 8, "die_at": 5, "signal": int(signal.SIGKILL)})
    for _ in range(2):
        with pytest.raises(WorkerError):
            build_artifact(None, store, spec, launcher=launcher, force=True)


def test_a_damaged_artifact_is_rebuilt_in_a_new_folder(
    store: ArtifactStore, launcher: LocalLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    spec = Spec("count", config={"steps": 2})
    first = build_artifact(None, store, spec, launcher=launcher).artifact
    (first.path / "count.txt").write_text("3")
    second = build_artifact(None, store, spec, launcher=launcher)
    assert not second.reused
    assert second.artifact.fingerprint == first.fingerprint and second.artifact.path != first.path
    assert any("count.txt was changed" in message for message in caplog.messages)


def test_a_step_with_a_build_function_runs_in_this_process(store: ArtifactStore) -> None:
    def write(spec: Spec, inputs, out: Path) -> dict:
        assert (inputs["raw"] / "raw.txt").read_text() == "raw"
        (out / "rows.txt").write_text(str(spec.config["n"]))
        return {"rows": 1}

    def write_raw(spec: Spec, inputs, out: Path) -> dict:
        (out / "raw.txt").write_text("raw")
        return {}

    raw = build_artifact(None, store, Spec("raw"), build=write_raw).artifact
    spec = Spec("table", {"raw": raw.reference}, {"n": 5})
    built = build_artifact(None, store, spec, build=write, run_info={"run_id": "x", "started_by": "schedule nightly"})
    assert built.artifact.inputs == {"raw": raw.reference}
    assert built.artifact.manifest["run"]["started_by"] == "schedule nightly"
    assert build_artifact(None, store, spec, build=write).reused


def test_a_missing_input_is_an_error(store: ArtifactStore, launcher: LocalLauncher) -> None:
    spec = Spec("count", {"base_model": ("base_model", "f" * 64)}, {"steps": 1})
    with pytest.raises(UserError, match="base_model ffffffffffffffff is not in the store"):
        build_artifact(None, store, spec, launcher=launcher)


def test_files_in_the_working_directory_shadow_no_package(
    store: ArtifactStore, launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert build_artifact(None, store, Spec("count", config={"steps": 1}), launcher=launcher).artifact


def test_the_user_can_set_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert worker_environment()["OMP_NUM_THREADS"] == str(usable_cores())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert worker_environment()["OMP_NUM_THREADS"] == "1"


def test_a_failing_listener_does_not_stop_the_build(store: ArtifactStore, launcher: LocalLauncher) -> None:
    def broken(_: Progress) -> None:
        raise ValueError("terminal gone")

    with listening(Progress, broken):
        built = build_artifact(None, store, Spec("count", config={"steps": 2}), launcher=launcher)
    assert built.artifact.summary["steps"] == 2
