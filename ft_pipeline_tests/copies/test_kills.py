"""`ft store push` and `pull` killed in the middle, as real processes, and run again."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.copies.store_files import list_store
from ft_pipeline.store.garbage import Garbage, remove_garbage
from ft_pipeline_tests.audit.shop import SECRET, Shop
from ft_pipeline_tests.copies import killed
from ft_pipeline_tests.copies.conftest import Projects
from ft_pipeline_tests.copies.test_store_copies import (
    BUCKET,
    contains,
    erase_secret,
    faults,
    files,
    keys,
    receive,
    recorded,
    send,
)

SIGKILL = -9
FT = [sys.executable, "-c", "from ft_pipeline.cli import main; main()"]
PATIENCE = 120.0


def kill_when(condition: Callable[[], bool], *arguments: str) -> None:
    """Start `ft` with these arguments, and kill it as soon as the condition is true."""
    process = subprocess.Popen([*FT, *arguments], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "it ended before the kill"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == SIGKILL


def kill_at(function: str, call: int, *arguments: str) -> None:
    """Run `ft` in a process that ends by SIGKILL at a call of a function of copies/pull.py."""
    script = [sys.executable, "-m", killed.__name__, "ft_pipeline.copies.pull", function, str(call)]
    assert subprocess.run([*script, *arguments], stdin=subprocess.DEVNULL, check=False).returncode == SIGKILL


def arrived(shop: Shop) -> int:
    return len(list((shop.store.root / "drafts" / "pull" / "objects").glob("[0-9a-f]*")))


def arrived_in(s3: Any) -> set[str]:
    """The keys in the bucket, once what a killed process sent has arrived."""
    before: set[str] = set()
    while (now := keys(s3)) != before:
        before = now
        time.sleep(0.5)
    return now


@pytest.mark.long
def test_a_push_that_is_killed_leaves_no_state_and_is_completed(s3: Any, projects: Projects) -> None:
    here = projects.finished()
    kill_when(lambda: len(keys(s3)) >= 10, "store", "push", BUCKET, "--yes", "--project", str(here.root))
    sent = arrived_in(s3)
    assert len(sent) >= 10 and not any("/states/" in key for key in sent), "the state is written last"
    total = len({file.sha256 for file in list_store(here.store.root).files.values()})
    result = send(here, BUCKET)
    assert result.sent == total - len(sent) > 0, "what arrived is not sent again"
    there = projects.empty()
    receive(there, BUCKET)
    assert recorded(there) == recorded(here) and faults(there) == []


@pytest.mark.long
def test_a_pull_that_is_killed_changes_nothing_and_is_completed(s3: Any, projects: Projects) -> None:
    here, there = projects.finished(), projects.empty()
    send(here, BUCKET)
    before = recorded(there)
    kill_when(lambda: arrived(there) >= 10, "store", "pull", BUCKET, "--project", str(there.root))
    assert recorded(there) == before and arrived(there) >= 10
    receive(there, BUCKET)
    assert recorded(there) == recorded(here) and faults(there) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("_move", 2),
        ("_adopt", 1),
        ("_take_journal", 1),
        ("write_atomically", 2),
        ("write_atomically", 5),
        ("_remove", 1),
    ],
)
def test_a_pull_that_is_killed_while_it_puts_files_in_place_is_completed(
    projects: Projects, tmp_path: Path, function: str, call: int
) -> None:
    here, there, address = projects.finished(), projects.empty(), str(tmp_path / "disk")
    old = here.put("scores", "lora", {}, {}, {"samples.json": b"{}"})
    send(here, address)
    receive(there, address)
    here.write("alpaca", "new.jsonl", [{"instruction": "Do you sell bread?", "output": "We sell no bread."}])
    here.materialize()
    here.put("scores", "lora", {}, {}, {"samples.json": b"[]"})
    remove_garbage(here.store, Garbage([old]))
    send(here, address)
    kill_at(function, call, "store", "pull", address, "--project", str(there.root))
    assert recorded(there) != recorded(here)
    receive(there, address)
    assert recorded(there) == recorded(here) and faults(there) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("function", "call"), [("_replace", 1), ("_replace", 3), ("_adopt", 1), ("_remove_erased_text", 1)]
)
def test_a_pull_that_is_killed_while_it_takes_over_an_erasure_is_completed(
    projects: Projects, tmp_path: Path, function: str, call: int
) -> None:
    here, there, address = projects.finished(), projects.empty(), str(tmp_path / "disk")
    send(here, address)
    receive(there, address)
    erase_secret(here)
    send(here, address)
    cached = there.store.root / "cache" / "rows"
    cached.parent.mkdir(exist_ok=True)
    cached.write_text(SECRET["output"])
    kill_at(function, call, "store", "pull", address, "--project", str(there.root))
    assert recorded(there) != recorded(here)
    receive(there, address)
    assert recorded(there) == recorded(here) and faults(there) == [] and not cached.exists()
    assert not any(contains(path, list(SECRET.values())) for path in files(there.store.root))
