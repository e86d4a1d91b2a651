"""Snapshot of a format folder: names and bytes define its version, and nothing outside it is read."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.sources.local_folder import folder_stamp, snapshot_folder
from ft_pipeline.sources.snapshot import Snapshot, checkout, read_listing, write_listing
from ft_pipeline.steps.tables import source_file
from ft_pipeline.store import stat_cache
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.tables.build import build_table


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "alpaca"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jsonl").write_text('{"instruction": "a"}\n')
    (folder / "more" / "b.csv").write_text("q,a\n1,2\n")
    (folder / "more" / "b.yaml").write_text("columns: {q: instruction, a: output}\n")
    (folder / "README.md").write_text("ours")
    (folder / ".hidden").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "c.jsonl").write_text("x")
    return folder


def test_the_snapshot_lists_data_files_and_their_sidecars(folder: Path, store: ArtifactStore) -> None:
    snapshot = snapshot_folder(folder, store)
    assert [(entry.name, entry.bytes, entry.sidecar is not None) for entry in snapshot.entries] == [
        ("a.jsonl", 21, False),
        ("more/b.csv", 8, True),
    ]
    assert snapshot.unused_sidecars == []


def test_the_data_version_depends_only_on_names_and_bytes(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    first = snapshot_folder(folder, store).data_version
    os.utime(folder / "a.jsonl", (1, 1))
    assert snapshot_folder(folder, store).data_version == first
    moved = folder.rename(tmp_path / "elsewhere")
    assert snapshot_folder(moved, ArtifactStore(tmp_path / "other")).data_version == first
    (moved / "more" / "b.yaml").write_text("columns: {}\n")
    second = snapshot_folder(moved, store).data_version
    (moved / "a.jsonl").rename(moved / "c.jsonl")
    third = snapshot_folder(moved, store).data_version
    (moved / "c.jsonl").write_text('{"instruction": "b"}\n')
    assert len({first, second, third, snapshot_folder(moved, store).data_version}) == 4


def test_a_snapshot_keeps_the_bytes_of_edited_and_deleted_files(
    folder: Path, store: ArtifactStore, tmp_path: Path
) -> None:
    snapshot = snapshot_folder(folder, store)
    (folder / "a.jsonl").write_text("edited")
    (folder / "more" / "b.csv").unlink()
    first, second = checkout(snapshot, store, tmp_path / "out")
    assert first.path is not None and first.path.read_text() == '{"instruction": "a"}\n'
    assert first.sidecar_path is None
    assert second.path is not None and second.path.name == "b.csv"
    assert second.sidecar_path is not None and second.sidecar_path.read_text().startswith("columns:")


def test_a_snapshot_is_stored_as_an_artifact(folder: Path, store: ArtifactStore) -> None:
    spec = snapshot_folder(folder, store).spec("alpaca")
    draft = store.begin(spec)
    summary = write_listing(Snapshot.from_json(spec.config), draft.out)
    artifact = store.commit(draft, summary)
    assert artifact.kind == "raw_alpaca"
    assert artifact.summary == {"files": 2, "bytes": 29, "refused": [], "unused_sidecars": []}
    assert read_listing(artifact) == read_listing(artifact.path) == snapshot_folder(folder, store)
    assert snapshot_folder(folder, store).spec("alpaca").hash == spec.hash


def test_links_to_outside_are_refused_and_not_read(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text("a secret")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "p.jsonl").write_text("a secret")
    (folder / "out.jsonl").symlink_to(secret)
    (folder / "outdir").symlink_to(tmp_path / "private")
    (folder / "inside.jsonl").symlink_to(folder / "a.jsonl")
    (folder / "nothing.jsonl").symlink_to(folder / "gone.jsonl")
    (folder / "side.csv").write_text("q\n1\n")
    (folder / "side.yaml").symlink_to(secret)
    os.mkfifo(folder / "pipe.jsonl")
    snapshot = snapshot_folder(folder, store)
    assert {entry.name: entry.error_code for entry in snapshot.entries} == {
        "a.jsonl": None,
        "inside.jsonl": None,
        "more/b.csv": None,
        "nothing.jsonl": "not_found",
        "out.jsonl": "path_outside_data_dir",
        "outdir": "path_outside_data_dir",
        "pipe.jsonl": "not_a_file",
        "side.csv": "path_outside_data_dir",
    }
    assert "secret" not in repr(snapshot)
    refused = next(copy for copy in checkout(snapshot, store, tmp_path / "o") if copy.entry.name == "out.jsonl")
    assert refused.path is None


def test_the_folder_itself_may_be_a_link(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert snapshot_folder(tmp_path / "link", store) == snapshot_folder(folder, store)


def test_files_with_hostile_names_stay_in_the_output_folder(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    for name in ("..x\n\x1b[31m.jsonl", "a b'\"; drop.jsonl"):
        (folder / name).write_text(name)
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.jsonl")).write_text("x")
    snapshot = snapshot_folder(folder, store)
    codes = {entry.name: entry.error_code for entry in snapshot.entries}
    assert codes["bad\\udcff.jsonl"] == "not_utf8"
    out = tmp_path / "out"
    for copy in checkout(snapshot, store, out):
        if copy.path is not None and "x" in copy.entry.name:
            assert copy.path.read_text() == copy.entry.name
            assert copy.path.resolve().is_relative_to(out.resolve())


def test_a_sidecar_without_its_file_is_reported(folder: Path, store: ArtifactStore) -> None:
    (folder / "more" / "c.yaml").write_text("columns: {}\n")
    assert snapshot_folder(folder, store).unused_sidecars == ["more/c.yaml"]


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_or_missing_folder_gives_an_empty_snapshot(store: ArtifactStore, tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "text").mkdir()
    assert snapshot_folder(tmp_path / "text", store).entries == []


def test_a_lost_or_damaged_blob_is_stored_again(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    snapshot = snapshot_folder(folder, store)
    blobs = BlobStore(store.root)
    first, second = (entry.sha256 for entry in snapshot.entries)
    assert first and second
    blobs.path(first).unlink()
    blobs.path(second).write_bytes(b"damaged")
    assert snapshot_folder(folder, store) == snapshot
    assert all(copy.path for copy in checkout(snapshot, store, tmp_path / "out"))


def test_a_large_file_is_not_copied(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    blobs = BlobStore(store.root, by_reference_above=10)
    snapshot = snapshot_folder(folder, store, blobs)
    assert snapshot == snapshot_folder(folder, store), "the version does not depend on how bytes are stored"
    copies = checkout(snapshot, store, tmp_path / "out", blobs)
    assert copies[0].path is not None


def test_a_file_deleted_during_the_snapshot_is_left_out(folder: Path, store: ArtifactStore) -> None:
    class DeletingBlobStore(BlobStore):
        def add(self, path: Path) -> str:
            (folder / "more" / "b.csv").unlink(missing_ok=True)
            return super().add(path)

    snapshot = snapshot_folder(folder, store, DeletingBlobStore(store.root))
    assert [entry.name for entry in snapshot.entries] == ["a.jsonl"]
    assert snapshot == snapshot_folder(folder, store)


def test_an_unreadable_file_is_reported_and_other_files_are_kept(folder: Path, store: ArtifactStore) -> None:
    class FailingBlobStore(BlobStore):
        def add(self, path: Path) -> str:
            if path.name == "a.jsonl":
                raise OSError(errno.EIO, "Input/output error", str(path))
            return super().add(path)

    bad, good = snapshot_folder(folder, store, FailingBlobStore(store.root)).entries
    assert (bad.error_code, bad.error_message) == ("not_found", "it cannot be read: input/output error")
    assert good.name == "more/b.csv" and good.sha256


def test_files_without_permission_are_reported_and_not_treated_as_empty() -> None:
    with folder_of_unprivileged_user() as root:
        folder, store = root / "alpaca", ArtifactStore(root / "store")
        for name in ("good.jsonl", "bad.jsonl", "listed/b.jsonl", "closed/c.jsonl"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
        (folder / "bad.jsonl").chmod(0)
        (folder / "listed").chmod(0o444)
        (folder / "closed").chmod(0)
        stamp = folder_stamp(folder)
        messages = {entry.name: entry.error_message for entry in snapshot_folder(folder, store).entries}
        folder.chmod(0)
        messages_of_closed_folder = {
            entry.name: entry.error_message for entry in snapshot_folder(folder, store).entries
        }
        assert folder_stamp(folder) != stamp
        for path in (folder, folder / "listed", folder / "closed"):
            path.chmod(0o700)
    assert messages == {
        "bad.jsonl": "it cannot be read: give this user the right to read it",
        "closed": "a folder that cannot be opened: give this user the right to read and enter it",
        "good.jsonl": None,
        "listed/b.jsonl": "it cannot be looked at: give this user the right to enter its folder",
    }
    assert messages_of_closed_folder == {
        ".": "a folder that cannot be opened: give this user the right to read and enter it"
    }


def test_a_file_in_place_of_the_folder_is_reported(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("rows")
    (entry,) = snapshot_folder(tmp_path / "text", store).entries
    assert (entry.name, entry.error_code) == (".", "not_a_file")


@contextmanager
def folder_of_unprivileged_user() -> Iterator[Path]:
    """A temporary folder. Root ignores file modes, so a process of root becomes another user meanwhile."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)


def table_of_references(folder: Path, store: ArtifactStore, out: Path, while_reading: Callable[[], None]) -> None:
    """Build the table of a folder whose files are stored by reference. `while_reading` is called in the middle."""
    blobs = BlobStore(store.root, by_reference_above=0)
    copies = checkout(snapshot_folder(folder, store, blobs), store, out / "files", blobs)
    cache = FolderCache(store.root, "tables")
    build_table(
        "text",
        [source_file(copy) for copy in copies],
        out / "table",
        max_quarantined=0.5,
        progress=lambda rows: while_reading(),
        cache=cache,
    )


def write_texts(path: Path, word: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f'{{"text": "A text about {word}, number {number}."}}\n' for number in range(9)))


@pytest.mark.parametrize("change", ["rewritten", "rewritten with its old time", "replaced", "cut off", "removed"])
def test_a_file_stored_by_reference_that_changes_while_it_is_read_gives_no_table(
    tmp_path: Path, store: ArtifactStore, change: str
) -> None:
    path = tmp_path / "text" / "a.jsonl"
    write_texts(path, "cats")
    os.utime(path, (1e9, 1e9))

    def change_it() -> None:
        if change == "replaced":
            write_texts(tmp_path / "other" / "b.jsonl", "dogs")
            (tmp_path / "other" / "b.jsonl").replace(path)
        elif change == "cut off":
            os.truncate(path, 10)
        elif change == "removed":
            path.unlink()
        else:
            write_texts(path, "dogs")
            if change == "rewritten with its old time":
                os.utime(path, (1e9, 1e9))

    with pytest.raises(UserError, match=r"a\.jsonl changed while it was read\. Wait"):
        table_of_references(path.parent, store, tmp_path / "out", change_it)
    assert not (tmp_path / "out" / "table" / "rows.parquet").exists()
    assert not list((store.root / "cache" / "tables").glob("*"))


def test_a_file_stored_by_reference_that_does_not_change_gives_a_table(tmp_path: Path, store: ArtifactStore) -> None:
    write_texts(tmp_path / "text" / "a.jsonl", "cats")
    table_of_references(tmp_path / "text", store, tmp_path / "out", lambda: None)
    assert pq.read_metadata(tmp_path / "out" / "table" / "rows.parquet").num_rows == 9
    assert (tmp_path / "text" / "a.jsonl").is_file() and not list((tmp_path / "out" / "files").glob("*/*"))


def test_the_copy_of_a_file_is_removed_after_it_was_read(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    copy = checkout(snapshot_folder(folder, store), store, tmp_path / "out")[0]
    with copy.reading() as path:
        assert path.read_text() == '{"instruction": "a"}\n' and path.is_relative_to(tmp_path / "out")
    assert not path.exists() and (folder / "a.jsonl").is_file()


def test_the_hashes_of_stored_files_are_read_and_saved_once_per_folder(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        write_texts(tmp_path / "text" / f"{number}.jsonl", f"number {number}")
    monkeypatch.setattr(stat_cache, "RACY_NANOSECONDS", 0)
    saved: list[Path] = []
    save = stat_cache.write_atomically
    monkeypatch.setattr(stat_cache, "write_atomically", lambda path, content: (saved.append(path), save(path, content)))
    snapshot = snapshot_folder(tmp_path / "text", store)
    folders = {entry.sha256[:2] for entry in snapshot.entries if entry.sha256}
    assert len(saved) == len(set(saved)) == len(folders) + 1
    assert snapshot_folder(tmp_path / "text", store) == snapshot and len(saved) == len(folders) + 1
