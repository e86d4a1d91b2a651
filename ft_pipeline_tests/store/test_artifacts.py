"""Artifacts are written completely or not at all, are found by their spec, and a changed byte is detected."""

import errno
import getpass
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.atomic_files import create_atomically, translate_write_errors, write_atomically
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.manifest import BrokenArtifact, FileEntry, fingerprint_of, sealed_manifest
from ft_pipeline.store.remembering_store import RememberingStore
from ft_pipeline.store.spec import Spec

SPEC = Spec("alpaca", config={"max": 1})
UNPRIVILEGED_USER = 65_534


def commit_artifact(store: ArtifactStore, spec: Spec = SPEC, text: str = "content", **files: str) -> Artifact:
    draft = store.begin(spec)
    (draft.out / "part").mkdir()
    (draft.out / "part" / "a.txt").write_text(text)
    for name, content in files.items():
        (draft.out / name.replace("_", ".")).write_text(content)
    return store.commit(draft, {"rows": 3}, {"run_id": "r1", "started_by": "test"})


def test_a_committed_artifact_is_found_by_its_spec(store: ArtifactStore) -> None:
    assert store.find(SPEC) is None
    committed = commit_artifact(store)
    artifact = store.find(SPEC)
    assert artifact is not None
    assert (artifact.path, artifact.fingerprint, artifact.summary) == (
        committed.path,
        committed.fingerprint,
        {"rows": 3},
    )
    opened = store.open("alpaca", committed.fingerprint)
    assert opened is not None and opened.path == committed.path
    assert (committed.path / "part" / "a.txt").read_text() == "content"
    assert store.find(Spec("alpaca", config={"max": 2})) is None
    assert list((store.root / "drafts").iterdir()) == []


@pytest.mark.parametrize("store_type", [ArtifactStore, RememberingStore])
def test_an_artifact_is_found_by_the_spec_without_a_version_that_counts_no_longer(
    tmp_path: Path, store_type: type[ArtifactStore]
) -> None:
    store = ArtifactStore(tmp_path / "store")
    spec = Spec("adapter", config={"r": 8}, versions={"torch": "2.13"})
    damaged = commit_artifact(store, replace(spec, versions={**spec.versions, "trl": "1.15.0"}))
    (damaged.path / "manifest.json").write_text("{")
    old = commit_artifact(store, replace(spec, versions={**spec.versions, "trl": "1.16.0"}))
    commit_artifact(store, replace(spec, versions={"torch": "2.12", "trl": "1.16.0"}), text="another torch")
    found = store_type(store.root).find(spec)
    assert found is not None and (found.path, found.is_of(spec)) == (old.path, True)
    assert found.spec["versions"]["trl"] == "1.16.0", "its manifest stays as it was written"
    assert store_type(store.root).find(replace(spec, seed=1)) is None
    of_now = commit_artifact(store, spec, text="of now")
    newest = store_type(store.root).find(spec)
    assert newest is not None and newest.path == of_now.path
    commit_artifact(store, Spec("alpaca", versions={"trl": "1.16.0"}))
    assert store_type(store.root).find(Spec("alpaca")) is None, "it is ignored only where it was without effect"


def test_the_manifest_records_inputs_files_code_and_environment(store: ArtifactStore) -> None:
    raw = commit_artifact(store, Spec("raw_alpaca"))
    config = {"max": 1, "training": {"seed": 3}}
    table = commit_artifact(store, Spec("alpaca", {"raw": raw.reference}, config, {"pandera": "0.35"}, seed=7))
    manifest = json.loads((table.path / "manifest.json").read_bytes())
    assert manifest["spec"] == {
        "kind": "alpaca",
        "inputs": {"raw": {"kind": "raw_alpaca", "fingerprint": raw.fingerprint}},
        "config": config,
        "versions": {"pandera": "0.35"},
        "seed": 7,
    }
    assert manifest["input_manifests"] == {"raw": sha256_of_file(raw.path / "manifest.json")}
    assert manifest["files"][0]["path"] == "part/a.txt"
    assert manifest["files"][0]["sha256"] == sha256_of_file(table.path / "part" / "a.txt")
    assert manifest["run"] == {"user": getpass.getuser(), "run_id": "r1", "started_by": "test"}
    assert set(manifest["code"]) == {"version", "sha256", "commit", "dirty"}
    assert manifest["seeds"] == {"seed": 7, "training.seed": 3}
    assert manifest["begun"] <= manifest["created"]
    assert {"torch", "python"} <= set(manifest["packages"])
    assert manifest["hardware"]["cores"] >= 1
    assert manifest["created"].endswith("+00:00")


def test_the_fingerprint_ignores_logs_and_times(store: ArtifactStore) -> None:
    first = commit_artifact(store, metrics_jsonl="1 s")
    second = commit_artifact(store, Spec("alpaca", config={"max": 2}), metrics_jsonl="2 s")
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != commit_artifact(store, Spec("alpaca", config={"max": 3}), text="other").fingerprint
    volatile = {entry["path"]: entry["volatile"] for entry in first.manifest["files"]}
    assert volatile == {"metrics.jsonl": True, "part/a.txt": False}


def test_the_fingerprint_of_a_table_depends_only_on_its_rows(store: ArtifactStore) -> None:
    def table(config: int, **options: object) -> Artifact:
        draft = store.begin(Spec("alpaca", config={"n": config}))
        pq.write_table(pa.table({"a": [1, 2, 3]}), draft.out / "rows.parquet", **options)
        return store.commit(draft, {})

    first, second = table(1, compression="snappy"), table(2, compression="zstd", row_group_size=1)
    assert first.fingerprint == second.fingerprint
    assert first.manifest["files"][0]["sha256"] != second.manifest["files"][0]["sha256"]


def test_committing_the_same_content_again_returns_the_existing_artifact(store: ArtifactStore) -> None:
    first, second = commit_artifact(store), commit_artifact(store)
    assert second.path == first.path
    assert second.manifest["created"] == first.manifest["created"]


def test_the_manifest_hash_distinguishes_equal_content_of_two_specs(store: ArtifactStore) -> None:
    artifacts = [commit_artifact(store, Spec("alpaca", config={"seed": seed})) for seed in (1, 2)]
    assert artifacts[0].fingerprint == artifacts[1].fingerprint
    for artifact in artifacts:
        opened = store.open(artifact.kind, artifact.fingerprint, manifest_sha256=artifact.manifest_sha256)
        assert opened is not None and opened.spec_hash == artifact.spec_hash
    (artifacts[1].path / "part" / "a.txt").unlink()
    opened = store.open(artifacts[1].kind, artifacts[1].fingerprint, manifest_sha256=artifacts[1].manifest_sha256)
    assert opened is not None and opened.path == artifacts[0].path
    unknown = store.open(artifacts[0].kind, artifacts[0].fingerprint, manifest_sha256="0" * 64)
    assert unknown is not None


def test_the_newest_of_two_artifacts_with_one_spec_is_found(store: ArtifactStore) -> None:
    first, second = commit_artifact(store, text="one"), commit_artifact(store, text="two")
    assert first.path.parent == second.path.parent
    newest = store.find(SPEC)
    assert newest is not None and newest.fingerprint == second.fingerprint


def test_the_newest_artifact_is_found_after_the_clock_was_set_back(store: ArtifactStore) -> None:
    early, late = commit_artifact(store, text="one"), commit_artifact(store, text="two")
    manifest = {**late.manifest, "created": "1999-01-01T00:00:00+00:00"}
    (late.path / "manifest.json").write_bytes(sealed_manifest(manifest))
    newest = store.find(SPEC)
    assert newest is not None and newest.fingerprint == late.fingerprint != early.fingerprint


def flip_last_byte(path: Path) -> None:
    """Change the last byte, and keep size and timestamp."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_byte_is_reported_and_the_artifact_is_rebuilt(store: ArtifactStore) -> None:
    broken = commit_artifact(store)
    assert store.find(SPEC)
    flip_last_byte(broken.path / "part" / "a.txt")
    messages: list[str] = []
    assert store.find(SPEC, messages.append) is None
    folder = broken.path.relative_to(store.root)
    assert messages == [f"skipped {folder}: part/a.txt was changed: its SHA-256 differs from its manifest"]
    rebuilt = commit_artifact(store)
    assert rebuilt.fingerprint == broken.fingerprint
    assert rebuilt.path.name == f"{broken.path.name}-2"
    assert (broken.path / "part" / "a.txt").read_text() != "content", "the damaged artifact is kept unchanged"
    artifact = store.find(SPEC)
    assert artifact is not None and artifact.path == rebuilt.path


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "part" / "a.txt").unlink(), "part/a.txt is missing"),
        (lambda folder: (folder / "part" / "a.txt").write_text("longer content"), "does not have the size"),
        (lambda folder: (folder / "added.txt").write_text("x"), "added.txt is not in its manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: edit_manifest(folder, lambda m: m["summary"].update(rows=4)), "its seal does not match"),
        (
            lambda folder: edit_manifest(folder, lambda m: m["run"].update(started_by="nobody")),
            "its seal does not match",
        ),
        (lambda folder: replace_by_link(folder / "part" / "a.txt"), "part/a.txt is a link"),
    ],
)
def test_each_kind_of_damage_is_reported(store: ArtifactStore, damage, reason: str) -> None:
    damage(commit_artifact(store).path)
    messages: list[str] = []
    assert store.find(SPEC, messages.append) is None
    assert len(messages) == 1 and reason in messages[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.bin", b"x"),
        ("part/optimizer.PT", b"x"),
        ("model.safetensors", b"\x80\x04K\x01."),
        ("a.json", b"PK\x03\x04"),
    ],
)
def test_a_pickle_cannot_be_committed(store: ArtifactStore, name: str, content: bytes) -> None:
    draft = store.begin(SPEC)
    (draft.out / "part").mkdir()
    (draft.out / name).write_bytes(content)
    with pytest.raises(BrokenArtifact, match=f"{name} is a pickle"):
        store.commit(draft, {})
    assert store.find(SPEC) is None


def test_a_pickle_listed_in_a_forged_manifest_is_not_used(store: ArtifactStore) -> None:
    """A store may come from another person, who can seal any manifest."""
    artifact = commit_artifact(store)
    (artifact.path / "adapter_model.bin").write_bytes(b"x")
    manifest = json.loads((artifact.path / "manifest.json").read_bytes())
    entry = FileEntry("adapter_model.bin", sha256_of_file(artifact.path / "adapter_model.bin"), 1)
    manifest["files"].append(entry.to_json())
    files = [FileEntry(**fields) for fields in manifest["files"]]
    (artifact.path / "manifest.json").write_bytes(
        sealed_manifest(manifest | {"fingerprint": fingerprint_of("alpaca", files)})
    )
    messages: list[str] = []
    assert store.find(SPEC, messages.append) is None
    assert "adapter_model.bin is a pickle" in messages[0]


@pytest.mark.parametrize("levels", [0, 1])
def test_an_artifact_folder_that_is_a_link_is_not_used(store: ArtifactStore, tmp_path: Path, levels: int) -> None:
    folder = commit_artifact(store).path
    folder = folder.parents[levels - 1] if levels else folder
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    messages: list[str] = []
    assert store.find(SPEC, messages.append) is None
    assert "its folder is a link" in messages[0]


def edit_manifest(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_by_link(path: Path) -> None:
    copy = path.parents[5] / "elsewhere.txt"
    path.rename(copy)
    path.symlink_to(copy)


def test_thorough_verification_reads_every_byte(store: ArtifactStore) -> None:
    artifact = commit_artifact(store)
    assert store.verify(artifact.path, thorough=True).fingerprint == artifact.fingerprint
    flip_last_byte(artifact.path / "part" / "a.txt")
    with pytest.raises(BrokenArtifact, match="was changed"):
        store.verify(artifact.path, thorough=True)


def test_a_damaged_input_gives_an_error_with_a_fix(store: ArtifactStore) -> None:
    raw = commit_artifact(store, Spec("raw_alpaca"))
    flip_last_byte(raw.path / "part" / "a.txt")
    with pytest.raises(UserError, match="materialize raw_alpaca again"):
        store.require(*raw.reference)


def test_a_link_cannot_be_committed(store: ArtifactStore) -> None:
    draft = store.begin(SPEC)
    (draft.out / "hosts").symlink_to("/etc/hosts")
    with pytest.raises(BrokenArtifact, match="link"):
        store.commit(draft, {})


CRASH = """
import os, sys
from pathlib import Path
from ft_pipeline.store import artifacts, manifest
from ft_pipeline.store.remembering_store import RememberingStore
from ft_pipeline.store.spec import Spec

store = artifacts.ArtifactStore(Path(sys.argv[1]))
draft = store.begin(Spec("alpaca", config={"max": 1}))
(draft.out / "a.txt").write_text("content")
(draft.work / "checkpoint").write_text("half")
stage = sys.argv[2]
if stage == "files":
    os._exit(9)

def die(*args):
    os._exit(9)

if stage == "manifest":  # between the files and the manifest's rename
    Path.replace = die
else:  # between the manifest and the folder's rename
    Path.rename = die
store.commit(draft, {})
"""


@pytest.mark.parametrize("moment", ["files", "manifest", "folder"])
def test_a_crash_before_the_end_of_a_commit_leaves_no_artifact(store: ArtifactStore, moment: str) -> None:
    process = subprocess.run([sys.executable, "-c", CRASH, str(store.root), moment], check=False)
    assert process.returncode == 9
    assert store.find(SPEC) is None
    assert store.all() == []
    draft = store.begin(SPEC)
    assert (draft.work / "checkpoint").read_text() == "half"
    assert len(list((store.root / "drafts").iterdir())) == 1, "the draft of the crashed process is removed"
    (draft.out / "a.txt").write_text("content")
    store.commit(draft, {})
    assert store.find(SPEC)
    assert not draft.work.exists()


def test_from_scratch_removes_the_old_checkpoints(store: ArtifactStore) -> None:
    (store.begin(SPEC).work / "checkpoint").write_text("half")
    assert list(store.begin(SPEC, from_scratch=True).work.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some space and run again"),
        (errno.EDQUOT, "free some space and run again"),
        (errno.EROFS, "cannot write: x.parquet, read-only file system; make it writable"),
        (errno.EACCES, "no access: x.parquet, permission denied; let this user read and write it"),
    ],
)
def test_a_write_error_tells_the_user_how_to_fix_it(number: int, fix: str) -> None:
    with pytest.raises(UserError, match=fix), translate_write_errors():
        raise OSError(number, os.strerror(number), "x.parquet")
    with pytest.raises(FileNotFoundError), translate_write_errors():
        raise FileNotFoundError(errno.ENOENT, "not there")


def test_a_permission_error_outside_the_store_names_the_file(tmp_path: Path) -> None:
    """For an error of Python, and for one of Arrow, which has no file name."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user")
    closed = tmp_path / "closed" / "x.parquet"
    closed.parent.mkdir(mode=0o700)
    closed.touch()
    for read in (Path.read_bytes, pq.read_table):
        os.seteuid(UNPRIVILEGED_USER)
        try:
            with (
                pytest.raises(UserError, match=r"closed/x\.parquet.*ermission denied; let this user"),
                translate_write_errors(),
            ):
                read(closed)
        finally:
            os.seteuid(0)


def test_a_full_disk_leaves_the_store_unchanged(tmp_path: Path) -> None:
    """Uses a real file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        store = ArtifactStore(disk / "store")
        kept = commit_artifact(store, text="x" * 500_000)
        (tmp_path / "large").write_text("x" * 2_000_000)
        with pytest.raises(UserError, match="no space is left"), translate_write_errors():
            write_atomically(store.root / "current" / "x.json", b"x" * 2_000_000)
        draft = store.begin(Spec("alpaca", config={"max": 2}))
        with pytest.raises(UserError, match="no space is left"), translate_write_errors():
            shutil.copy(tmp_path / "large", draft.out / "rows.txt")
        store.discard(draft)
        assert [artifact.path for artifact in store.all()] == [kept.path]
        assert commit_artifact(store, Spec("alpaca", config={"max": 3})).path.exists()
        assert list((store.root / "current").iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_store_can_be_read(tmp_path: Path) -> None:
    """Uses a real read-only mount, because root ignores file modes."""
    committed = commit_artifact(ArtifactStore(tmp_path / "store"))
    view = tmp_path / "view"
    view.mkdir()
    bind = f"mount --bind {tmp_path / 'store'} {view} && mount -o remount,bind,ro {view}"
    if subprocess.run(["sh", "-c", bind], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount")
    try:
        store = ArtifactStore(view)
        artifact = store.find(SPEC)
        assert artifact is not None and artifact.fingerprint == committed.fingerprint
        with pytest.raises(UserError, match="read-only file system; make it writable"):
            store.begin(Spec("alpaca", config={"max": 2}))
        with pytest.raises(UserError, match="read-only file system; make it writable"):
            store.lock(SPEC).try_acquire()
    finally:
        subprocess.run(["umount", str(view)], check=True)


def test_nan_in_a_summary_becomes_null(store: ArtifactStore) -> None:
    draft = store.begin(SPEC)
    (draft.out / "a.txt").write_text("x")
    assert store.commit(draft, {"loss": float("nan")}).summary == {"loss": None}


def test_an_asset_pointer_names_the_latest_artifact(store: ArtifactStore) -> None:
    pointers = AssetPointers(store.root)
    assert pointers.read("adapter", "qlora") is None
    first, second = commit_artifact(store, text="one"), commit_artifact(store, text="two")
    pointers.write("adapter", "qlora", first)
    pointers.write("adapter", "qlora", second)
    pointers.write("alpaca", None, first)
    pointer = pointers.read("adapter", "qlora")
    assert pointer is not None
    assert (pointer.kind, pointer.fingerprint) == ("alpaca", second.fingerprint)
    assert pointer.manifest_sha256 == sha256_of_file(second.path / "manifest.json")
    assert [(entry.asset, entry.partition) for entry in pointers.all()] == [("adapter", "qlora"), ("alpaca", None)]


def test_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "x.json", b"1")
    write_atomically(tmp_path / "a" / "x.json", b"2")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.json"]
    assert (tmp_path / "a" / "x.json").read_bytes() == b"2"


def test_a_file_is_created_once(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.json"
    assert [create_atomically(path, content) for content in (b"1", b"2")] == [True, False]
    assert [entry.name for entry in path.parent.iterdir()] == ["x.json"] and path.read_bytes() == b"1"
