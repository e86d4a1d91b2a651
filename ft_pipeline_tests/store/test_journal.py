"""The signed journal: changes survive a killed process, processes take turns, and a wrong key is one clear line."""

import json
import multiprocessing
import os
import shutil
import stat
from pathlib import Path

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.journal import changing, sign_content, sign_new_store
from ft_pipeline.store.journal_lines import FILE_NAME, read_journal
from ft_pipeline.store.ledger import Ledger
from ft_pipeline.store.signing import create_key, find_key, keys_folder
from ft_pipeline.store.spec import Spec


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new, signed store."""
    monkeypatch.setenv("FT_KEYS", str(tmp_path / "keys"))
    assert sign_new_store(tmp_path / "store")
    return tmp_path / "store"


def build(root: Path, content: bytes = b"x") -> Artifact:
    store = ArtifactStore(root)
    draft = store.begin(Spec("adapter", {}, {"content": content.decode()}).with_code_version("1"))
    (draft.out / "adapter_model.safetensors").write_bytes(content)
    return store.commit(draft, {})


def test_each_change_is_a_signed_line(root: Path) -> None:
    artifact = build(root)
    AssetPointers(root).write("adapter", "qlora", artifact)
    Ledger(root / "champion", "sequence").append({"sequence": 1})
    content = read_journal(root)
    assert content.faults == []
    assert [entry.change for entry in content.entries] == ["created", "artifact", "pointer", "champion"]
    manifest = (artifact.path / "manifest.json").relative_to(root).as_posix()
    assert content.entries[1].files == {manifest: artifact.manifest_sha256}


def test_a_new_store_is_signed_once_and_one_with_artifacts_not_by_itself(root: Path, tmp_path: Path) -> None:
    assert sign_new_store(root) is None
    old = tmp_path / "old"
    build(old)
    assert sign_new_store(old) is None and read_journal(old).entries == []


def test_a_change_that_was_signed_and_not_made_is_completed(root: Path) -> None:
    """The process was killed after it signed a record, and before it wrote it."""
    path = root / "champion" / "000001.json"
    with pytest.raises(KeyboardInterrupt), changing(root) as sign:
        sign_content(sign, root, "champion", path, b'{"sequence": 1}')
        raise KeyboardInterrupt
    assert not path.exists()
    build(root)
    assert path.read_bytes() == b'{"sequence": 1}'


def test_an_artifact_that_was_signed_and_not_moved_into_place_is_given_up(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(root)
    build(root)
    assert [entry.change for entry in read_journal(root).entries] == ["created", "artifact", "abandoned", "artifact"]


def test_half_a_line_of_a_killed_process_is_removed(root: Path) -> None:
    build(root)
    with (root / FILE_NAME).open("ab") as file:
        file.write(b'{"payload": "eyJf')
    build(root, b"y")
    content = read_journal(root)
    assert content.faults == [] and len(content.entries) == 3


def _append(root: Path, number: int) -> None:
    for turn in range(5):
        Ledger(root / f"ledger{number}", "sequence").append({"sequence": turn + 1})


def test_processes_take_turns(root: Path) -> None:
    workers = [multiprocessing.get_context("fork").Process(target=_append, args=(root, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    content = read_journal(root)
    assert content.faults == [] and len(content.entries) == 1 + 3 * 5


def test_long_lines_are_read_whole(root: Path) -> None:
    with changing(root) as sign:
        sign("adopted " * 1, {f"champion/{number:06d}.json": "0" * 64 for number in range(12_000)})
    build(root)
    assert read_journal(root).faults == []


def test_only_the_user_can_read_the_key(root: Path) -> None:
    key = find_key(root)
    assert key and stat.S_IMODE(key.path.stat().st_mode) == 0o600
    key.path.chmod(0o644)
    with pytest.raises(UserError, match=r"Other users can read the signing key .*chmod 600"):
        build(root)


def test_another_key_in_its_place_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = create_key()
    monkeypatch.setenv("FT_SIGNING_KEY", str(other.path))
    with pytest.raises(UserError, match=rf"is {other.key_id[:16]}, but this store is signed with"):
        build(root)
    (tmp_path / "text.pem").write_text("no key", encoding="utf-8")
    monkeypatch.setenv("FT_SIGNING_KEY", str(tmp_path / "text.pem"))
    with pytest.raises(UserError, match="is not an unencrypted private key in PEM form"):
        build(root)


def test_a_mounted_key_signs_a_new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_KEYS", str(tmp_path / "keys"))
    mounted = create_key()
    monkeypatch.setenv("FT_SIGNING_KEY", str(mounted.path))
    key = sign_new_store(tmp_path / "store")
    assert key and key.key_id == mounted.key_id
    assert len(list(keys_folder().glob("*.pem"))) == 1


def test_a_folder_of_keys_that_cannot_be_written_stops_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod the key is a mounted secret, and nothing is remembered."""
    key = find_key(root)
    assert key
    monkeypatch.setenv("FT_SIGNING_KEY", str(key.path))
    monkeypatch.setenv("FT_KEYS", os.devnull)
    build(root)
    assert len(read_journal(root).entries) == 2


def test_the_journal_has_no_text_of_a_reason_of_an_erasure(root: Path) -> None:
    Ledger(root / "redactions", "number").append({"number": 1, "reason": "Ada Fenwick asked"})
    assert b"Fenwick" not in (root / FILE_NAME).read_bytes()
    payloads = [json.dumps(vars(entry), default=str) for entry in read_journal(root).entries]
    assert not any("Fenwick" in payload for payload in payloads)


def test_a_store_whose_signatures_were_removed_records_nothing(root: Path) -> None:
    build(root)
    (root / "signing_key.pub").unlink()
    with pytest.raises(UserError, match="The journal or the public key of this store was removed"):
        build(root, b"y")
    (root / FILE_NAME).unlink()
    with pytest.raises(UserError, match="The journal or the public key of this store was removed"):
        build(root, b"y")


def test_a_damaged_last_line_is_one_clear_error(root: Path) -> None:
    build(root)
    with (root / FILE_NAME).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(UserError, match="A line of the journal is damaged"):
        build(root, b"y")


def test_a_new_store_in_the_same_folder_names_the_one_before(root: Path) -> None:
    build(root)
    shutil.rmtree(root)
    assert sign_new_store(root)
    (first,) = read_journal(root).entries
    assert first.details["replaces"]["number"] == 2


def test_a_whole_line_without_its_line_break_stays(root: Path) -> None:
    build(root)
    path = root / FILE_NAME
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    build(root, b"y")
    content = read_journal(root)
    assert content.faults == [] and len(content.entries) == 3


def test_damaged_lines_are_faults_and_never_errors(root: Path) -> None:
    key = find_key(root)
    assert key
    first = (root / FILE_NAME).read_bytes()
    for predicate in ({}, {"sequence": 2, "details": None}, {"time": "x"}, {"time": "2026-01-01T00:00:00"}):
        valid = {"sequence": 2, "previous": None, "time": "2026-01-01T00:00:00+00:00", "by": "x", "change": "new key"}
        statement = {"_type": "https://in-toto.io/Statement/v1", "subject": [], "predicate": {**valid, **predicate}}
        (root / FILE_NAME).write_bytes(first + key.sign(statement) + b"\n")
        assert [fault.number for fault in read_journal(root).faults] == [2]
    (root / FILE_NAME).write_bytes(first + b"[" * 200_000 + b"\n")
    assert [fault.number for fault in read_journal(root).faults] == [2]
