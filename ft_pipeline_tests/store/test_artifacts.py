"""Artifacts appear whole or not at all, are found by their spec, and a changed byte is seen."""

import errno
import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.manifest import BrokenArtifact, FileEntry, fingerprint_of, write_seal
from ft_pipeline.store.spec import Spec

SPEC = Spec("alpaca", config={"max": 1})
NOBODY = 65_534


def make(store: ArtifactStore, spec: Spec = SPEC, text: str = "content", **files: str) -> Artifact:
    draft = store.begin(spec)
    (draft.out / "part").mkdir()
    (draft.out / "part" / "a.txt").write_text(text)
    for name, content in files.items():
        (draft.out / name.replace("_", ".")).write_text(content)
    return store.commit(draft, {"rows": 3}, {"run_id": "r1", "started_by": "test"})


def test_what_was_committed_is_found(store: ArtifactStore) -> None:
    assert store.find(SPEC) is None
    made = make(store)
    found = store.find(SPEC)
    assert found is not None
    assert (found.path, found.fingerprint, found.summary) == (made.path, made.fingerprint, {"rows": 3})
    opened = store.open("alpaca", made.fingerprint)
    assert opened is not None and opened.path == made.path
    assert (made.path / "part" / "a.txt").read_text() == "content"
    assert store.find(Spec("alpaca", config={"max": 2})) is None
    assert list((store.root / "drafts").iterdir()) == []


def test_the_manifest_says_what_an_auditor_needs(store: ArtifactStore) -> None:
    raw = make(store, Spec("raw_alpaca"))
    config = {"max": 1, "training": {"seed": 3}}
    table = make(store, Spec("alpaca", {"raw": raw.reference}, config, {"pandera": "0.35"}, seed=7))
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


def test_identity_is_the_content_without_logs_and_times(store: ArtifactStore) -> None:
    first = make(store, metrics_jsonl="1 s")
    second = make(store, Spec("alpaca", config={"max": 2}), metrics_jsonl="2 s")
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != make(store, Spec("alpaca", config={"max": 3}), text="other").fingerprint
    volatile = {entry["path"]: entry["volatile"] for entry in first.manifest["files"]}
    assert volatile == {"metrics.jsonl": True, "part/a.txt": False}


def test_identity_of_a_table_is_that_of_its_rows(store: ArtifactStore) -> None:
    def table(config: int, **options: object) -> Artifact:
        draft = store.begin(Spec("alpaca", config={"n": config}))
        pq.write_table(pa.table({"a": [1, 2, 3]}), draft.out / "rows.parquet", **options)
        return store.commit(draft, {})

    first, second = table(1, compression="snappy"), table(2, compression="zstd", row_group_size=1)
    assert first.fingerprint == second.fingerprint
    assert first.manifest["files"][0]["sha256"] != second.manifest["files"][0]["sha256"]


def test_the_same_content_again_is_the_artifact_that_is_there(store: ArtifactStore) -> None:
    first, again = make(store), make(store)
    assert again.path == first.path
    assert again.manifest["created"] == first.manifest["created"]


def test_the_same_content_under_two_specs_is_told_apart_by_its_manifest(store: ArtifactStore) -> None:
    made = [make(store, Spec("alpaca", config={"seed": seed})) for seed in (1, 2)]
    assert made[0].fingerprint == made[1].fingerprint
    for each in made:
        found = store.open(each.kind, each.fingerprint, manifest_sha256=each.manifest_sha256)
        assert found is not None and found.spec_hash == each.spec_hash
    (made[1].path / "part" / "a.txt").unlink()
    found = store.open(made[1].kind, made[1].fingerprint, manifest_sha256=made[1].manifest_sha256)
    assert found is not None and found.path == made[0].path
    unknown = store.open(made[0].kind, made[0].fingerprint, manifest_sha256="0" * 64)
    assert unknown is not None


def test_other_content_under_the_same_spec_stands_beside_and_the_newest_is_found(store: ArtifactStore) -> None:
    first, second = make(store, text="one"), make(store, text="two")
    assert first.path.parent == second.path.parent
    found = store.find(SPEC)
    assert found is not None and found.fingerprint == second.fingerprint


def test_the_newest_is_known_though_the_clock_was_put_back(store: ArtifactStore) -> None:
    early, late = make(store, text="one"), make(store, text="two")
    manifest = {**late.manifest, "created": "1999-01-01T00:00:00+00:00"}
    (late.path / "manifest.json").write_bytes(write_seal(manifest))
    found = store.find(SPEC)
    assert found is not None and found.fingerprint == late.fingerprint != early.fingerprint


def flip(path: Path) -> None:
    """Change one byte, and put size and time stamp back."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_flipped_byte_is_seen_said_and_rebuilt_beside(store: ArtifactStore) -> None:
    broken = make(store)
    assert store.find(SPEC)
    flip(broken.path / "part" / "a.txt")
    said: list[str] = []
    assert store.find(SPEC, said.append) is None
    where = broken.path.relative_to(store.root)
    assert said == [f"skipped {where}: part/a.txt was changed: its SHA-256 differs from its manifest"]
    rebuilt = make(store)
    assert rebuilt.fingerprint == broken.fingerprint
    assert rebuilt.path.name == f"{broken.path.name}-2"
    assert (broken.path / "part" / "a.txt").read_text() != "content", "the damaged one is kept as it is"
    found = store.find(SPEC)
    assert found is not None and found.path == rebuilt.path


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "part" / "a.txt").unlink(), "part/a.txt is missing"),
        (lambda folder: (folder / "part" / "a.txt").write_text("longer content"), "does not have the size"),
        (lambda folder: (folder / "added.txt").write_text("x"), "added.txt is not in its manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: edit(folder, lambda m: m["summary"].update(rows=4)), "its seal does not match"),
        (lambda folder: edit(folder, lambda m: m["run"].update(started_by="nobody")), "its seal does not match"),
        (lambda folder: link(folder / "part" / "a.txt"), "part/a.txt is a link"),
    ],
)
def test_every_damage_is_named(store: ArtifactStore, damage, reason: str) -> None:
    damage(make(store).path)
    said: list[str] = []
    assert store.find(SPEC, said.append) is None
    assert len(said) == 1 and reason in said[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.bin", b"x"),
        ("part/optimizer.PT", b"x"),
        ("model.safetensors", b"\x80\x04K\x01."),
        ("a.json", b"PK\x03\x04"),
    ],
)
def test_no_pickle_gets_in(store: ArtifactStore, name: str, content: bytes) -> None:
    draft = store.begin(SPEC)
    (draft.out / "part").mkdir()
    (draft.out / name).write_bytes(content)
    with pytest.raises(BrokenArtifact, match=f"{name} is a pickle"):
        store.commit(draft, {})
    assert store.find(SPEC) is None


def test_a_pickle_that_a_forged_manifest_lists_is_not_used(store: ArtifactStore) -> None:
    """A store may come from elsewhere, its manifests sealed by whoever made it."""
    made = make(store)
    (made.path / "adapter_model.bin").write_bytes(b"x")
    manifest = json.loads((made.path / "manifest.json").read_bytes())
    entry = FileEntry("adapter_model.bin", sha256_of_file(made.path / "adapter_model.bin"), 1)
    manifest["files"].append(entry.to_json())
    files = [FileEntry(**each) for each in manifest["files"]]
    (made.path / "manifest.json").write_bytes(write_seal(manifest | {"fingerprint": fingerprint_of("alpaca", files)}))
    said: list[str] = []
    assert store.find(SPEC, said.append) is None
    assert "adapter_model.bin is a pickle" in said[0]


@pytest.mark.parametrize("levels", [0, 1])
def test_a_folder_that_is_a_link_is_not_used(store: ArtifactStore, tmp_path: Path, levels: int) -> None:
    folder = make(store).path
    folder = folder.parents[levels - 1] if levels else folder
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    said: list[str] = []
    assert store.find(SPEC, said.append) is None
    assert "its folder is a link" in said[0]


def edit(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def link(path: Path) -> None:
    copy = path.parents[5] / "elsewhere.txt"
    path.rename(copy)
    path.symlink_to(copy)


def test_a_thorough_look_reads_every_byte(store: ArtifactStore) -> None:
    made = make(store)
    assert store.verify(made.path, thorough=True).fingerprint == made.fingerprint
    flip(made.path / "part" / "a.txt")
    with pytest.raises(BrokenArtifact, match="was changed"):
        store.verify(made.path, thorough=True)


def test_a_damaged_input_is_an_error_with_its_fix(store: ArtifactStore) -> None:
    raw = make(store, Spec("raw_alpaca"))
    flip(raw.path / "part" / "a.txt")
    with pytest.raises(UserError, match="materialize raw_alpaca again"):
        store.require(*raw.reference)


def test_links_do_not_become_part_of_an_artifact(store: ArtifactStore) -> None:
    draft = store.begin(SPEC)
    (draft.out / "hosts").symlink_to("/etc/hosts")
    with pytest.raises(BrokenArtifact, match="link"):
        store.commit(draft, {})


CRASH = """
import os, sys
from pathlib import Path
from ft_pipeline.store import artifacts, manifest
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


@pytest.mark.parametrize("stage", ["files", "manifest", "folder"])
def test_a_crash_before_the_end_leaves_nothing_visible(store: ArtifactStore, stage: str) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, str(store.root), stage], check=False)
    assert done.returncode == 9
    assert store.find(SPEC) is None
    assert store.all() == []
    draft = store.begin(SPEC)
    assert (draft.work / "checkpoint").read_text() == "half"
    assert len(list((store.root / "drafts").iterdir())) == 1, "what the crash left is gone"
    (draft.out / "a.txt").write_text("content")
    store.commit(draft, {})
    assert store.find(SPEC)
    assert not draft.work.exists()


def test_afresh_begins_without_the_old_checkpoints(store: ArtifactStore) -> None:
    (store.begin(SPEC).work / "checkpoint").write_text("half")
    assert list(store.begin(SPEC, afresh=True).work.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some space and run again"),
        (errno.EDQUOT, "free some space and run again"),
        (errno.EROFS, "cannot write: x.parquet, read-only file system; make it writable"),
        (errno.EACCES, "no access: x.parquet, permission denied; let this user read and write it"),
    ],
)
def test_a_store_that_takes_no_bytes_is_the_users_to_mend(number: int, fix: str) -> None:
    with pytest.raises(UserError, match=fix), translate_write_errors():
        raise OSError(number, os.strerror(number), "x.parquet")
    with pytest.raises(FileNotFoundError), translate_write_errors():
        raise FileNotFoundError(errno.ENOENT, "not there")


def test_a_file_outside_the_store_that_is_closed_to_the_user_is_named(tmp_path: Path) -> None:
    """By Python's own error, and by Arrow's, which has no file name."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user")
    closed = tmp_path / "closed" / "x.parquet"
    closed.parent.mkdir(mode=0o700)
    closed.touch()
    for read in (Path.read_bytes, pq.read_table):
        os.seteuid(NOBODY)
        try:
            with (
                pytest.raises(UserError, match=r"closed/x\.parquet.*ermission denied; let this user"),
                translate_write_errors(),
            ):
                read(closed)
        finally:
            os.seteuid(0)


def test_a_disk_that_fills_up_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    """On a real file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        store = ArtifactStore(disk / "store")
        kept = make(store, text="x" * 500_000)
        (tmp_path / "large").write_text("x" * 2_000_000)
        with pytest.raises(UserError, match="no space is left"), translate_write_errors():
            write_atomically(store.root / "current" / "x.json", b"x" * 2_000_000)
        draft = store.begin(Spec("alpaca", config={"max": 2}))
        with pytest.raises(UserError, match="no space is left"), translate_write_errors():
            shutil.copy(tmp_path / "large", draft.out / "rows.txt")
        store.discard(draft)
        assert [each.path for each in store.all()] == [kept.path]
        assert make(store, Spec("alpaca", config={"max": 3})).path.exists()
        assert list((store.root / "current").iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_store_is_still_one_to_read_from(tmp_path: Path) -> None:
    """On a real read-only mount: chmod does not bind root."""
    made = make(ArtifactStore(tmp_path / "store"))
    view = tmp_path / "view"
    view.mkdir()
    bind = f"mount --bind {tmp_path / 'store'} {view} && mount -o remount,bind,ro {view}"
    if subprocess.run(["sh", "-c", bind], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount")
    try:
        store = ArtifactStore(view)
        found = store.find(SPEC)
        assert found is not None and found.fingerprint == made.fingerprint
        with pytest.raises(UserError, match="read-only file system; make it writable"):
            store.begin(Spec("alpaca", config={"max": 2}))
        with pytest.raises(UserError, match="read-only file system; make it writable"):
            store.lock(SPEC).try_acquire()
    finally:
        subprocess.run(["umount", str(view)], check=True)


def test_summary_takes_numbers_that_are_no_json(store: ArtifactStore) -> None:
    draft = store.begin(SPEC)
    (draft.out / "a.txt").write_text("x")
    assert store.commit(draft, {"loss": float("nan")}).summary == {"loss": None}


def test_current_is_replaced_whole(store: ArtifactStore) -> None:
    current = AssetPointers(store.root)
    assert current.read("adapter", "qlora") is None
    first, second = make(store, text="one"), make(store, text="two")
    current.write("adapter", "qlora", first)
    current.write("adapter", "qlora", second)
    current.write("alpaca", None, first)
    pointer = current.read("adapter", "qlora")
    assert pointer is not None
    assert (pointer.kind, pointer.fingerprint) == ("alpaca", second.fingerprint)
    assert pointer.manifest_sha256 == sha256_of_file(second.path / "manifest.json")
    assert [(each.asset, each.partition) for each in current.all()] == [("adapter", "qlora"), ("alpaca", None)]


def test_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "x.json", b"1")
    write_atomically(tmp_path / "a" / "x.json", b"2")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.json"]
    assert (tmp_path / "a" / "x.json").read_bytes() == b"2"
