"""A worker that hangs is ended, with the reason; one that is silent but works is not."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.workers.launchers import LocalLauncher, check_environment
from ft_pipeline.execution.workers.stall_watch import DEFAULT_STALL_MINUTES, StallWatch, stall_seconds
from ft_pipeline.execution.workers.supervisor import WorkerError, run_worker
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.execution.conftest import job, wait_until

LIMIT = 1.2
"""Seconds."""
SHORT = ((signal.SIGINT, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))


@pytest.mark.parametrize("stubborn", (False, pytest.param(True, marks=pytest.mark.long)))
def test_a_worker_that_hangs_is_ended(tmp_path: Path, launcher: LocalLauncher, stubborn: bool) -> None:
    hanging = replace(job(tmp_path, "hang", stubborn=stubborn), stall_seconds=LIMIT)
    with pytest.raises(WorkerError) as raised:
        run_worker(None, hanging, launcher, stop_sequence=SHORT)
    message = str(raised.value)
    assert message.startswith("hang: the worker was ended, because it made no progress for 0.02 min: no report, ")
    assert "Last report: hang: 3/9, loss 0.5" in message
    assert message.endswith("If it only needs longer, set FT_STALL_MINUTES above 0.02 and run again.")
    assert "fake_jobs.py" in raised.value.log_tail and "in hang" in raised.value.log_tail, "the stack shows where"
    command_lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not any(str(tmp_path) in line for line in command_lines)


WORK = {"cpu": "pass", "reading": "open('/proc/self/exe', 'rb').read(100_000); time.sleep(0.02)"}
WORKS_AND_PAUSES = """
import time
end = time.monotonic() + 1.5
while time.monotonic() < end:
    {work}
time.sleep(60)
"""


@pytest.mark.parametrize("by", WORK)
def test_silence_is_no_stall_while_a_process_works(tmp_path: Path, by: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKS_AND_PAUSES.format(work=WORK[by])]) as process:
        try:
            watch, began = StallWatch(process.pid, tmp_path, limit=0.6), time.monotonic()
            while time.monotonic() < began + 1.2:
                assert not watch.has_stalled()
                time.sleep(0.02)
            wait_until(watch.has_stalled, "the pause is a stall")
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.parametrize("by", ("cpu", "reading"))
def test_a_silent_worker_that_works_is_not_ended(tmp_path: Path, launcher: LocalLauncher, by: str) -> None:
    working = replace(job(tmp_path, "busy", by=by, seconds=LIMIT * 2), stall_seconds=LIMIT)
    assert run_worker(None, working, launcher).summary == {"done": True}


def test_the_limit_of_the_environment_holds_for_every_build(
    store: ArtifactStore, launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_STALL_MINUTES", str(LIMIT / 60))
    with pytest.raises(WorkerError, match=r"made no progress for 0\.02 min"):
        build_artifact(None, store, Spec("hang"), launcher=launcher)
    assert list((store.root / "drafts").iterdir()) == []


def test_waiting_for_an_endpoint_is_on_top_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FT_STALL_MINUTES", raising=False)
    assert stall_seconds(waits=720) == DEFAULT_STALL_MINUTES * 60 + 720
    monkeypatch.setenv("FT_STALL_MINUTES", "0")
    assert stall_seconds() == math.inf


@pytest.mark.parametrize("text", ("soon", "-1", "inf", "nan"))
def test_the_limit_is_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_STALL_MINUTES", text)
    with pytest.raises(UserError, match=f"FT_STALL_MINUTES='{text}' is not a number of minutes. Set it to"):
        check_environment()


def test_a_process_that_is_gone_is_no_error(tmp_path: Path) -> None:
    watch = StallWatch(2**22 + 1, tmp_path, limit=0.01)
    time.sleep(0.05)
    assert watch.has_stalled()
    watch.dump_stacks()


def test_waiting_for_a_lock_is_reported_again(tmp_path: Path) -> None:
    """Otherwise a worker that waits for another one's answers would look as if it hung."""
    first, lines = FileLock(tmp_path / "lock", "asking"), []

    def log(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            first.release()

    assert first.try_acquire()
    with FileLock(tmp_path / "lock", "asking").hold(log, repeat_seconds=0.01):
        assert len(lines) == 3 and len(set(lines)) == 1
