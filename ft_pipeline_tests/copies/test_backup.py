"""`ft backup` and `ft restore`: a project while its databases are written, restored elsewhere."""

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.copies.archive import reading_place, writing_place
from ft_pipeline.copies.backup import SEPARATE_DATABASE, BackupResult, back_up
from ft_pipeline.copies.restore import RestoreResult, restore
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.signing import find_key
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import Shop
from ft_pipeline_tests.copies.conftest import Projects
from ft_pipeline_tests.copies.test_kills import kill_when
from ft_pipeline_tests.copies.test_store_copies import BUCKET, faults, files, keys, recorded

EVENTS = "dagster_home/history/runs/index.db"


def save(shop: Shop, address: str, *, with_key: bool = False) -> BackupResult:
    with writing_place(address, shop.root) as place:
        return back_up(Project(shop.root), place, lambda done, total: None, with_key=with_key)


def bring_back(address: str, target: Path, number: int | None = None) -> RestoreResult:
    with reading_place(address) as place:
        return restore(place, target, lambda done, total: None, number)


@contextlib.contextmanager
def written_to(database: Path) -> Iterator[None]:
    """Let a thread write to a database as Dagster does, in WAL mode, until the block ends. Each transaction adds two
    rows, so that half of one is an odd number."""
    database.parent.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            while not stop.is_set():
                with connection:
                    connection.execute("insert into events values ('STEP_START')")
                    connection.execute("insert into events values ('STEP_SUCCESS')")
                time.sleep(0.001)

    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("create table if not exists events (type text)")
        connection.commit()
        thread = threading.Thread(target=write)
        thread.start()
        try:
            while not connection.execute("select count(*) from events").fetchone()[0]:
                time.sleep(0.001)
            yield
        finally:
            stop.set()
            thread.join()


def rows_in(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        return int(connection.execute("select count(*) from events").fetchone()[0])


def project_files(root: Path) -> dict[str, bytes]:
    """The user's own files."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files(root)
        if not path.is_relative_to(root / "data" / "store") and not path.is_relative_to(root / "dagster_home")
    }


@pytest.mark.parametrize("target", ["disk", "shop.tar"])
def test_a_restored_project_is_as_it_was_backed_up(projects: Projects, tmp_path: Path, target: str) -> None:
    here, address = projects.finished(), str(tmp_path / "backup" / target)
    (tmp_path / "backup").mkdir()
    (here.root / "experiments").mkdir()
    (here.root / "experiments" / "lora.yaml").write_text("technique: lora\n")
    (here.root / "same.txt").write_text("technique: lora\n")
    (here.root / ".env").write_text("TOKEN=geheim")
    (here.store.root / "work" / "adapter").mkdir(exist_ok=True)
    (here.store.root / "work" / "adapter" / "checkpoint").write_text("half a model")
    with written_to(here.root / EVENTS):
        result = save(here, address)
    restored = bring_back(address, tmp_path / "elsewhere" / "shop")
    there = Shop(tmp_path / "elsewhere" / "shop")
    expected = project_files(here.root)
    del expected[".env"]
    assert project_files(there.root) == expected and recorded(there) == recorded(here) and faults(there) == []
    events = rows_in(there.root / EVENTS)
    assert 0 < events <= rows_in(here.root / EVENTS) and events % 2 == 0, "a whole number of transactions"
    assert (there.root / "same.txt").stat().st_nlink == 1, "equal files are separate files"
    assert not (there.store.root / "work").exists() and restored.files == result.files
    private = find_key(here.store.root)
    assert private is not None
    content = b"".join(path.read_bytes() for path in files(tmp_path / "backup"))
    assert private.path.read_bytes() not in content and b"geheim" not in content and not result.with_key
    there.materialize()
    assert faults(there) == []


def test_a_folder_gets_only_what_is_new_and_keeps_earlier_states(projects: Projects, tmp_path: Path) -> None:
    here, address = projects.finished(), str(tmp_path / "disk")
    first = save(here, address)
    assert first.sent > 30 and save(here, address).sent == 0
    raw = here.raw("alpaca", "support.jsonl")
    before = raw.read_bytes()
    here.write("alpaca", "support.jsonl", [])
    assert save(here, address).number == 3
    bring_back(address, tmp_path / "newest")
    bring_back(address, tmp_path / "first", number=1)
    assert Shop(tmp_path / "newest").raw("alpaca", "support.jsonl").read_bytes() == b""
    assert Shop(tmp_path / "first").raw("alpaca", "support.jsonl").read_bytes() == before
    with pytest.raises(UserError, match=r"has no state 7. Choose one of these: 1, 2, 3"):
        bring_back(address, tmp_path / "other", number=7)


def test_the_key_is_restored_only_if_it_was_asked_for(
    projects: Projects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, address = projects.finished(), str(tmp_path / "shop.tar")
    key = find_key(here.store.root)
    assert key is not None and save(here, address, with_key=True).with_key
    assert Path(address).stat().st_mode & 0o077 == 0
    monkeypatch.setenv("FT_KEYS", str(tmp_path / "keys"))
    restored = bring_back(address, tmp_path / "there")
    found = find_key(tmp_path / "there" / "data" / "store")
    assert found is not None and found.key_id == key.key_id and str(found.path) in restored.notes[0]
    assert not (tmp_path / "there" / "keys").exists()
    assert bring_back(address, tmp_path / "again").notes == [], "a key that is there stays"
    unsigned = projects.finished("unsigned", signed=False)
    with pytest.raises(UserError, match="there is no key to back up"):
        save(unsigned, str(tmp_path / "disk"), with_key=True)


def test_a_large_raw_file_is_found_after_the_project_moved(projects: Projects, tmp_path: Path) -> None:
    here, address = projects.finished(), str(tmp_path / "disk")
    blobs = BlobStore(here.store.root, by_reference_above=10)
    sha256 = blobs.add(here.raw("alpaca", "support.jsonl"))
    blobs.path(sha256).unlink()
    save(here, address)
    bring_back(address, tmp_path / "there")
    shutil.rmtree(here.root)
    there = Shop(tmp_path / "there")
    assert BlobStore(there.store.root).state(sha256) == "copy" and faults(there) == []


def test_what_cannot_be_restored_is_refused_and_nothing_appears(projects: Projects, tmp_path: Path) -> None:
    here, address = projects.finished(), str(tmp_path / "disk")
    save(here, address)
    with pytest.raises(UserError, match=r"is not empty. Name a new folder"):
        bring_back(address, here.root)
    with pytest.raises(UserError, match="There is no backup in"):
        bring_back(str(tmp_path / "nothing"), tmp_path / "there")
    with pytest.raises(UserError, match="There is no file"):
        bring_back(str(tmp_path / "nothing.tar"), tmp_path / "there")
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(UserError, match="cannot be read as a backup"):
        bring_back(str(tmp_path / "text.tar"), tmp_path / "there")
    weights = next((tmp_path / "disk" / "objects").rglob("[0-9a-f]" * 4 + "*"))
    weights.write_bytes(b"x" * weights.stat().st_size)
    with pytest.raises(UserError, match="its content is not that of its name"):
        bring_back(address, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_where_a_backup_cannot_be_made_is_refused(projects: Projects, tmp_path: Path) -> None:
    here = projects.finished()
    for address in (str(here.root / "backup"), str(here.root / "backup.tar")):
        with pytest.raises(UserError, match="is in the project itself"):
            save(here, address)
    for address in (str(tmp_path / "not" / "mounted"), str(tmp_path / "not" / "mounted.tar")):
        with pytest.raises(UserError, match=r"/not does not exist. Create it, or mount the disk"):
            save(here, address)
    (tmp_path / "old.tar").write_text("an earlier backup")
    with pytest.raises(UserError, match=r"exists. Name a new file"):
        save(here, str(tmp_path / "old.tar"))
    assert (tmp_path / "old.tar").read_text() == "an earlier backup"


def test_a_separate_database_is_named(projects: Projects, tmp_path: Path) -> None:
    here, address = projects.finished(), str(tmp_path / "disk")
    text = "storage:\n  postgres:\n    postgres_url:\n      env: FT_POSTGRES_URL\n"
    (here.root / "dagster_home" / "dagster.yaml").write_text(text)
    assert save(here, address).notes == [SEPARATE_DATABASE]
    assert "Restore it with its own tools" in bring_back(address, tmp_path / "there").notes[0]


def test_the_commands_ask_before_data_leaves_for_a_bucket(
    s3: Any, projects: Projects, tmp_path: Path, opened: Path, ft: Command, ft_json: Command
) -> None:
    here, there = projects.finished(opened.name), tmp_path / "there"
    assert here.root == opened
    for command in (("store", "push", BUCKET), ("backup", BUCKET)):
        with pytest.raises(UserError, match=r"There is no terminal to confirm this .*--yes"):
            ft(*command)
    assert keys(s3) == set()
    assert ft_json("backup", BUCKET, "--yes")["number"] == 1
    with pytest.raises(UserError, match=r"was written by `ft backup`. Use `ft restore`"):
        ft("store", "pull", BUCKET)
    code, output = ft("restore", BUCKET, str(there))
    assert code == 0 and f"Verify it: ft audit --verify --project {there}" in output
    assert recorded(Shop(there)) == recorded(here)
    assert ft_json("store", "push", BUCKET + "/store", "--yes")["sent"] > 30
    code, output = ft("store", "pull", BUCKET + "/store")
    assert code == 0 and "This store was up to date with state 1 of s3://copies/shop/store" in output


@pytest.mark.long
def test_a_restore_that_is_killed_leaves_no_project_and_is_completed(
    s3: Any, projects: Projects, tmp_path: Path
) -> None:
    here, target = projects.finished(), tmp_path / "there"
    save(here, BUCKET)
    objects = tmp_path / ".there.restoring" / "objects"
    kill_when(lambda: len(list(objects.glob("[0-9a-f]*"))) >= 10, "restore", BUCKET, str(target))
    assert not target.exists()
    bring_back(BUCKET, target)
    assert recorded(Shop(target)) == recorded(here) and not objects.parent.exists()
