"""A format folder is kept by content: names and bytes count, times do not, and nothing outside it is read."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ft_pipeline.sources.local_folder import folder_stamp, snapshot_folder
from ft_pipeline.sources.snapshot import Snapshot, checkout, read_listing, write_listing
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.blobs import BlobStore


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


def test_the_listing(folder: Path, store: ArtifactStore) -> None:
    snapshot = snapshot_folder(folder, store)
    assert [(entry.name, entry.bytes, entry.sidecar is not None) for entry in snapshot.entries] == [
        ("a.jsonl", 21, False),
        ("more/b.csv", 8, True),
    ]
    assert snapshot.unused_sidecars == []


def test_only_names_and_bytes_make_the_version(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
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


def test_bytes_outlive_the_folder(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    snapshot = snapshot_folder(folder, store)
    (folder / "a.jsonl").write_text("edited")
    (folder / "more" / "b.csv").unlink()
    first, second = checkout(snapshot, store, tmp_path / "out")
    assert first.path is not None and first.path.read_text() == '{"instruction": "a"}\n'
    assert first.sidecar_path is None
    assert second.path is not None and second.path.name == "b.csv"
    assert second.sidecar_path is not None and second.sidecar_path.read_text().startswith("columns:")


def test_as_an_artifact(folder: Path, store: ArtifactStore) -> None:
    spec = snapshot_folder(folder, store).spec("alpaca")
    draft = store.begin(spec)
    summary = write_listing(Snapshot.from_json(spec.config), draft.out)
    artifact = store.commit(draft, summary)
    assert artifact.kind == "raw_alpaca"
    assert artifact.summary == {"files": 2, "bytes": 29, "refused": [], "unused_sidecars": []}
    assert read_listing(artifact) == read_listing(artifact.path) == snapshot_folder(folder, store)
    assert snapshot_folder(folder, store).spec("alpaca").hash == spec.hash


def test_links_that_lead_out_are_refused_unread(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
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
    refused = next(each for each in checkout(snapshot, store, tmp_path / "o") if each.entry.name == "out.jsonl")
    assert refused.path is None


def test_the_folder_itself_may_be_a_link(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert snapshot_folder(tmp_path / "link", store) == snapshot_folder(folder, store)


def test_hostile_names_stay_inside(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    for name in ("..x\n\x1b[31m.jsonl", "a b'\"; drop.jsonl"):
        (folder / name).write_text(name)
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.jsonl")).write_text("x")
    snapshot = snapshot_folder(folder, store)
    codes = {entry.name: entry.error_code for entry in snapshot.entries}
    assert codes["bad\\udcff.jsonl"] == "not_utf8"
    out = tmp_path / "out"
    for each in checkout(snapshot, store, out):
        if each.path is not None and "x" in each.entry.name:
            assert each.path.read_text() == each.entry.name
            assert each.path.resolve().is_relative_to(out.resolve())


def test_a_sidecar_without_its_file_is_told(folder: Path, store: ArtifactStore) -> None:
    (folder / "more" / "c.yaml").write_text("columns: {}\n")
    assert snapshot_folder(folder, store).unused_sidecars == ["more/c.yaml"]


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_or_absent_folder_is_an_empty_snapshot(store: ArtifactStore, tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "text").mkdir()
    assert snapshot_folder(tmp_path / "text", store).entries == []


def test_a_lost_or_damaged_copy_is_kept_again(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    snapshot = snapshot_folder(folder, store)
    blobs = BlobStore(store.root)
    first, second = (entry.sha256 for entry in snapshot.entries)
    assert first and second
    blobs.path(first).unlink()
    blobs.path(second).write_bytes(b"damaged")
    assert snapshot_folder(folder, store) == snapshot
    assert all(each.path for each in checkout(snapshot, store, tmp_path / "out"))


def test_a_large_file_stays_where_it_is(folder: Path, store: ArtifactStore, tmp_path: Path) -> None:
    blobs = BlobStore(store.root, by_reference_above=10)
    snapshot = snapshot_folder(folder, store, blobs)
    assert snapshot == snapshot_folder(folder, store), "how bytes are kept is no part of the version"
    found = checkout(snapshot, store, tmp_path / "out", blobs)
    assert found[0].path is not None


def test_a_file_that_goes_meanwhile_was_never_there(folder: Path, store: ArtifactStore) -> None:
    class Racing(BlobStore):
        def add(self, path: Path) -> str:
            (folder / "more" / "b.csv").unlink(missing_ok=True)
            return super().add(path)

    snapshot = snapshot_folder(folder, store, Racing(store.root))
    assert [entry.name for entry in snapshot.entries] == ["a.jsonl"]
    assert snapshot == snapshot_folder(folder, store)


def test_a_file_that_the_disk_does_not_give_is_named_and_the_others_are_taken(
    folder: Path, store: ArtifactStore
) -> None:
    class Failing(BlobStore):
        def add(self, path: Path) -> str:
            if path.name == "a.jsonl":
                raise OSError(errno.EIO, "Input/output error", str(path))
            return super().add(path)

    bad, good = snapshot_folder(folder, store, Failing(store.root)).entries
    assert (bad.error_code, bad.error_message) == ("not_found", "it cannot be read: input/output error")
    assert good.name == "more/b.csv" and good.sha256


def test_what_this_user_may_not_open_is_named_and_never_taken_for_empty() -> None:
    with a_user_of_no_rights() as place:
        folder, other = place / "alpaca", ArtifactStore(place / "store")
        for name in ("good.jsonl", "bad.jsonl", "listed/b.jsonl", "closed/c.jsonl"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
        (folder / "bad.jsonl").chmod(0)
        (folder / "listed").chmod(0o444)
        (folder / "closed").chmod(0)
        stamp = folder_stamp(folder)
        told = {entry.name: entry.error_message for entry in snapshot_folder(folder, other).entries}
        folder.chmod(0)
        shut = {entry.name: entry.error_message for entry in snapshot_folder(folder, other).entries}
        assert folder_stamp(folder) != stamp
        for path in (folder, folder / "listed", folder / "closed"):
            path.chmod(0o700)
    assert told == {
        "bad.jsonl": "it cannot be read: give this user the right to read it",
        "closed": "a folder that cannot be opened: give this user the right to read and enter it",
        "good.jsonl": None,
        "listed/b.jsonl": "it cannot be looked at: give this user the right to enter its folder",
    }
    assert shut == {".": "a folder that cannot be opened: give this user the right to read and enter it"}


def test_a_file_in_the_place_of_the_folder_is_named(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("rows")
    (entry,) = snapshot_folder(tmp_path / "text", store).entries
    assert (entry.name, entry.error_code) == (".", "not_a_file")


@contextmanager
def a_user_of_no_rights() -> Iterator[Path]:
    """A folder of this process's own, which root, who sees through every mode, gives up being for a while."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as place:
        if root:
            os.chown(place, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(place)
        finally:
            if root:
                os.seteuid(0)
