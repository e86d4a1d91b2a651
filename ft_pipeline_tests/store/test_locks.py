"""One writer at a time, across processes."""

import subprocess
import sys
import threading
from pathlib import Path

from ft_pipeline.store.locks import FileLock

HOLD = """
import sys
from pathlib import Path
from ft_pipeline.store.locks import FileLock
with FileLock(Path(sys.argv[1]), "building adapter").hold():
    print("held", flush=True)
    sys.stdin.readline()
"""


def start_holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_reports_that_it_waits_and_then_gets_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "x"
    process = start_holder(path)
    messages: list[str] = []

    def log(message: str) -> None:
        messages.append(message)
        assert process.stdin
        process.stdin.close()  # the first process ends

    with FileLock(path, "building adapter").hold(log):
        assert process.wait(30) == 0
        assert not FileLock(path, "again").try_acquire()
    assert messages == [f"waiting: building adapter is under way in process {process.pid} (building adapter)"]
    assert FileLock(path, "again").try_acquire()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = start_holder(tmp_path / "x")
    assert not FileLock(tmp_path / "x", "y").try_acquire()
    process.kill()
    process.wait()
    with FileLock(tmp_path / "x", "y").hold():
        pass


def test_only_one_thread_at_a_time_has_the_lock(tmp_path: Path) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(3):
            with FileLock(tmp_path / "x", "y").hold():
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
