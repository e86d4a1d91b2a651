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


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_the_second_waits_says_so_and_then_holds(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "x"
    process = holder(path)
    said: list[str] = []

    def say(message: str) -> None:
        said.append(message)
        assert process.stdin
        process.stdin.close()  # lets the first one go

    with FileLock(path, "building adapter").hold(say):
        assert process.wait(30) == 0
        assert not FileLock(path, "again").try_acquire()
    assert said == [f"waiting: building adapter is under way in process {process.pid} (building adapter)"]
    assert FileLock(path, "again").try_acquire()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    process = holder(tmp_path / "x")
    assert not FileLock(tmp_path / "x", "y").try_acquire()
    process.kill()
    process.wait()
    with FileLock(tmp_path / "x", "y").hold():
        pass


def test_two_threads_exclude_each_other(tmp_path: Path) -> None:
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
