"""`ft restore` of archives that somebody made to do harm: each is refused in a sentence, and nothing is left of it."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.copies import states
from ft_pipeline.copies.archive import reading_place
from ft_pipeline.copies.restore import restore
from ft_pipeline.copies.states import object_name
from ft_pipeline.errors import UserError
from ft_pipeline.store.signing import create_key, find_key
from ft_pipeline_tests.copies.conftest import Projects
from ft_pipeline_tests.copies.test_backup import save

STATE = "states/000001.json"
ROWS = b'{"instruction": "x"}\n'
ROWS_SHA256 = hashlib.sha256(ROWS).hexdigest()
Sizes = namedtuple("Sizes", "total used free")


class Archive:
    """The members of a backup, which an attack changes, and its state."""

    def __init__(self, source: Path) -> None:
        with tarfile.open(source) as tar:
            self.members = {entry.name: (entry, _content(tar, entry)) for entry in tar.getmembers()}
        self.state = json.loads(self.members[STATE][1])
        self.cut: int | None = None

    def add(self, name: str, content: bytes = ROWS) -> None:
        """Add a file to the backup."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.state["files"][name] = [sha256, len(content)]
        self.put(object_name(sha256), content)

    def put(self, name: str, content: bytes, **fields: Any) -> None:
        """Write a member. fields: those of TarInfo."""
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        for field, value in fields.items():
            setattr(entry, field, value)
        self.members[name] = (entry, content)

    def write(self, target: Path) -> None:
        if self.state is not None:
            self.put(STATE, json.dumps(self.state).encode())
        with tarfile.open(target, "w") as tar:
            for entry, content in self.members.values():
                tar.addfile(entry, io.BytesIO(content))
        if self.cut is not None:
            os.truncate(target, self.cut)


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    assert file is not None
    return file.read()


def raw_state(content: bytes) -> Callable[[Archive], None]:
    """An archive with this state."""

    def change(archive: Archive) -> None:
        archive.state = None
        archive.put(STATE, content)

    change.__name__ = f"state {content[:20]!r}"
    return change


def entry_of(value: Any) -> Callable[[Archive], None]:
    """An archive whose state has this entry for a file."""

    def change(archive: Archive) -> None:
        archive.add("data/raw/alpaca/rows.jsonl")
        archive.state["files"]["data/raw/alpaca/rows.jsonl"] = value

    change.__name__ = f"entry {str(value)[:12]!r} … {str(value)[-12:]!r}"
    return change


def named(*names: str) -> Callable[[Archive], None]:
    """An archive with files of these names."""

    def change(archive: Archive) -> None:
        for name in names:
            archive.add(name)

    change.__name__ = f"name {names[0][:30]!a}"
    return change


def field(name: str, value: Any) -> Callable[[Archive], None]:
    """An archive whose state has another value."""

    def change(archive: Archive) -> None:
        archive.state[name] = value

    change.__name__ = f"{name} {str(value)[:10]}"
    return change


def member(name: str, kind: bytes, link: str = "") -> Callable[[Archive], None]:
    """An archive in which a state or an object is not a file."""

    def change(archive: Archive) -> None:
        archive.add("data/raw/alpaca/rows.jsonl")
        target = name or object_name(ROWS_SHA256)
        if name == STATE:
            archive.state = None
        archive.put(target, b"", type=kind, linkname=link)

    change.__name__ = f"member {name or 'object'} of type {kind!r} {link}"
    return change


def cut_in_the_middle(archive: Archive) -> None:
    archive.cut = 50_000


def sparse_object(archive: Archive) -> None:
    """A few bytes that would be written as 256 MB."""
    headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 28)}
    archive.add("data/raw/alpaca/rows.jsonl")
    archive.state["files"]["data/raw/alpaca/rows.jsonl"] = [ROWS_SHA256, 1 << 28]
    archive.put(object_name(ROWS_SHA256), b"", pax_headers=headers)


def wrong_size(archive: Archive) -> None:
    archive.add("data/raw/alpaca/rows.jsonl")
    archive.state["files"]["data/raw/alpaca/rows.jsonl"][1] = 5


def wrong_content(archive: Archive) -> None:
    archive.add("data/raw/alpaca/rows.jsonl")
    archive.put(object_name(ROWS_SHA256), ROWS[::-1])


def missing_object(archive: Archive) -> None:
    archive.add("data/raw/alpaca/rows.jsonl")
    del archive.members[object_name(ROWS_SHA256)]


def broken_header(archive: Archive) -> None:
    archive.put(object_name(ROWS_SHA256), ROWS, pax_headers={"GNU.sparse.map": "0,x", "GNU.sparse.size": "x"})


def raw_file_of_another_name(archive: Archive) -> None:
    archive.add("data/store/blobs/ev/evil.raw")


def raw_file_whose_folder_is_a_file(archive: Archive) -> None:
    archive.add(f"data/store/blobs/zz/{ROWS_SHA256}.raw")
    archive.add(f"data/store/blobs/{ROWS_SHA256[:2]}")


def raw_file_whose_copy_is_a_folder(archive: Archive) -> None:
    archive.add(f"data/store/blobs/{ROWS_SHA256[:2]}/{ROWS_SHA256}.raw")
    archive.add(f"data/store/blobs/{ROWS_SHA256[:2]}/{ROWS_SHA256}.zst/x")


def other_key_of_that_name(archive: Archive) -> None:
    """The backup has another private key under the name of the store's."""
    [name] = [name for name in archive.state["files"] if name.startswith("keys/")]
    archive.add(name, create_key().path.read_bytes())


def text_in_place_of_the_key(archive: Archive) -> None:
    [name] = [name for name in archive.state["files"] if name.startswith("keys/")]
    archive.add(name, b"no key")


def key_that_signed_nothing(archive: Archive) -> None:
    """The key and the public key are of the attacker. The journal is not."""
    [name] = [name for name in archive.state["files"] if name.startswith("keys/")]
    del archive.state["files"][name]
    key = create_key()
    archive.add("data/store/signing_key.pub", key.public_pem)
    archive.add(f"keys/{key.key_id[:16]}.pem", key.path.read_bytes())


def text_in_place_of_the_public_key(archive: Archive) -> None:
    archive.add("data/store/signing_key.pub", b"no key")


def broken_journal(archive: Archive) -> None:
    archive.add("data/store/journal.jsonl", b"[" * 50_000 + b"\n{}\n")


SHA_AND_NEWLINE = [f"{ROWS_SHA256}\n", len(ROWS)]
HOSTILE: list[Callable[[Archive], None]] = [
    *(named(name) for name in ("../evil", "/etc/evil", "a/../../evil", "a//b", "a\\..\\b", "a\0b", "", ".", "..")),
    *(named(name) for name in (".bashrc", "data/store/.hidden/x", "data/store/cache/views.json", "data/store/work/x")),
    *(named(name) for name in ("x" * 300, "/".join("x" * 3000), "\ud800")),
    *(named("a", "a/b"), named("a/b", "a"), named("a", "a/b/c")),
    *map(raw_state, (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"files": 1}', b'{"format": 1}')),
    *map(entry_of, (1, [], "ab", [1, 2], [ROWS_SHA256], SHA_AND_NEWLINE, [ROWS_SHA256, "9"], [ROWS_SHA256, None])),
    *map(entry_of, ([ROWS_SHA256, -1], [ROWS_SHA256, True], [ROWS_SHA256, 1e300], [ROWS_SHA256, 10**30])),
    *(field("files", []), field("files", {"a": None}), field("format", 2), field("content", "x"), field("content", [])),
    *(member("", kind, "/etc/passwd") for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE)),
    *(member("", kind) for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE, b"?")),
    *(member("", kind, object_name(ROWS_SHA256)) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)),
    *(member(STATE, kind, STATE) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE)),
    *(cut_in_the_middle, sparse_object, wrong_size, wrong_content, missing_object, broken_header),
    *(raw_file_of_another_name, raw_file_whose_folder_is_a_file, raw_file_whose_copy_is_a_folder),
    *(other_key_of_that_name, text_in_place_of_the_key, key_that_signed_nothing),
    *(text_in_place_of_the_public_key, broken_journal),
]


@pytest.fixture(scope="module")
def honest(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup with the private key."""
    folder = tmp_path_factory.mktemp("honest")
    save(Projects(folder, finished).finished(), str(folder / "shop.tar"), with_key=True)
    return folder / "shop.tar"


@pytest.fixture
def archive(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """The same backup, which is restored by a user without keys. Keys that an attack makes are elsewhere."""
    monkeypatch.setenv("FT_KEYS", str(tmp_path / "attacker"))
    return Archive(honest)


def bring_back(archive: Archive, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Restore the archive; return the notes."""
    monkeypatch.setenv("FT_KEYS", str(folder / "keys"))
    archive.write(folder / "shop.tar")
    with reading_place(str(folder / "shop.tar")) as place:
        return restore(place, folder / "target" / "shop", lambda done, total: None).notes


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Callable[[Archive], None]
) -> None:
    attack(archive)
    with pytest.raises(UserError) as refused:
        bring_back(archive, tmp_path, monkeypatch)
    assert "Nothing was used" in str(refused.value) or len(str(refused.value).split(". ")) >= 2
    assert not (tmp_path / "target" / "shop").exists()
    assert not (tmp_path / "keys").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"shop.tar", "target", "attacker"}
    # What was fetched of a file that ends early is not fetched again from the whole file.
    left = {".shop.restoring"} if "cannot be read as a backup" in str(refused.value) else set()
    assert {path.name for path in tmp_path.glob("target/*")} <= left


@pytest.mark.parametrize("part", range(0, 90, 11))
def test_an_archive_that_ends_early_is_refused(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    archive.members = {STATE: archive.members[STATE], **archive.members}  # the list is there, an object is not
    archive.write(tmp_path / "whole.tar")
    archive.cut = (tmp_path / "whole.tar").stat().st_size * part // 100
    with pytest.raises(UserError):
        bring_back(archive, tmp_path, monkeypatch)
    assert not (tmp_path / "target" / "shop").exists() and not (tmp_path / "keys").exists()


def test_a_backup_that_does_not_fit_is_refused_before_anything_is_written(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one file under many names, each of which becomes a file."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Sizes(10**9, 0, 10**6))
    archive.add("rows", b"x" * 10_000)
    for number in range(100):
        archive.state["files"][f"rows{number}"] = archive.state["files"]["rows"]
    with pytest.raises(UserError, match=r"needs 0\.\d+ GB, but 0\.001 GB are free"):
        bring_back(archive, tmp_path, monkeypatch)
    assert not (tmp_path / "target").exists()


def test_a_state_that_is_too_large_is_not_read(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "MAX_STATE_BYTES", 1000)
    with pytest.raises(UserError, match=r"is larger than any list of files"):
        bring_back(archive, tmp_path, monkeypatch)


def test_only_the_key_of_the_store_is_put_into_the_users_folder(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create_key()
    archive.add(f"keys/{key.key_id[:16]}.pem", key.path.read_bytes())
    archive.add("keys/evil.pem", b"anything")
    notes = bring_back(archive, tmp_path, monkeypatch)
    restored = find_key(tmp_path / "target" / "shop" / "data" / "store")
    assert restored is not None and list((tmp_path / "keys").glob("*.pem")) == [restored.path]
    assert len(notes) == 1 and restored.path.stat().st_mode & 0o077 == 0
    kept = {path.name for path in (tmp_path / "target" / "shop" / "keys").iterdir()}
    assert kept == {f"{key.key_id[:16]}.pem", "evil.pem"}, "they are the project's own files"


def test_another_key_of_the_same_name_is_not_replaced(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [name] = [name for name in archive.state["files"] if name.startswith("keys/")]
    (tmp_path / "keys").mkdir()
    own = tmp_path / "keys" / Path(name).name
    own.write_text("another key")
    with pytest.raises(UserError, match=r"is another key"):
        bring_back(archive, tmp_path, monkeypatch)
    assert own.read_text() == "another key" and not (tmp_path / "target" / "shop").exists()


def file_in_place_of_the_store(archive: Archive) -> None:
    archive.state["files"] = {name: file for name, file in archive.state["files"].items() if "store/" not in name}
    archive.add("data/store")


def folder_in_place_of_a_file(archive: Archive) -> None:
    archive.state["files"].pop("data/store/views.sql", None)
    archive.add("data/store/views.sql/x")


@pytest.mark.parametrize("attack", [file_in_place_of_the_store, folder_in_place_of_a_file])
def test_a_store_that_cannot_be_read_is_said(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Callable[[Archive], None]
) -> None:
    attack(archive)
    with pytest.raises(UserError, match=r"was restored, but .* cannot be read"):
        bring_back(archive, tmp_path, monkeypatch)
    assert (tmp_path / "target" / "shop" / "project.yaml").is_file()


def test_a_folder_with_what_is_no_file_is_refused(honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with tarfile.open(honest) as tar:
        tar.extractall(folder, filter="data")
    (folder / "objects" / "aa").mkdir(exist_ok=True)
    (folder / "objects" / "aa" / "dangling").symlink_to("nowhere")
    victim = next(path for path in sorted((folder / "objects").rglob("*")) if path.is_file())
    victim.unlink()
    os.mkfifo(victim)
    with reading_place(str(folder)) as place, pytest.raises(UserError, match="which it should have"):
        restore(place, tmp_path / "shop", lambda done, total: None)


def test_the_time_of_a_backup_is_shown_as_it_is_written(archive: Archive, tmp_path: Path) -> None:
    archive.state["made"] = "\x1b[31mnever"
    archive.write(tmp_path / "shop.tar")
    done = CliRunner().invoke(app, ["restore", str(tmp_path / "shop.tar"), str(tmp_path / "shop")])
    assert done.exit_code == 0 and r"as it was on \x1b[31mnever (state 1)" in done.output
