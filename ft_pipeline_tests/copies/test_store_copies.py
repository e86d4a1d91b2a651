"""`ft store push` and `ft store pull`, to moto's S3 server and to a folder."""

import hashlib
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ft_pipeline.audit.verify import verify
from ft_pipeline.copies.places import open_place
from ft_pipeline.copies.pull import PullResult, pull
from ft_pipeline.copies.push import PushResult, push
from ft_pipeline.copies.states import CopiedFile, newest_state, write_state
from ft_pipeline.copies.transfer import LocalFile, fetch_objects, send_objects
from ft_pipeline.erasure.erase import erase
from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.project import Project
from ft_pipeline.release import champion
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.garbage import Garbage, remove_garbage
from ft_pipeline.store.journal import replace_key
from ft_pipeline.store.journal_lines import FILE_NAME
from ft_pipeline.store.locks import project_lock
from ft_pipeline_tests.audit.shop import SECRET, Shop
from ft_pipeline_tests.copies.conftest import Projects

BUCKET = "s3://copies/shop"
SIGNED = [True, pytest.param(False, marks=pytest.mark.long)]
"""Whether a store is signed. Two usual tests below are of stores without signatures, too."""


def send(shop: Shop, address: str) -> PushResult:
    return push(shop.store.root, open_place(address, shop.root), "shop", lambda done, total: None)


def receive(shop: Shop, address: str) -> PullResult:
    return pull(shop.store.root, open_place(address, shop.root), lambda done, total: None)


def faults(shop: Shop) -> list[str]:
    """What `ft audit --verify` finds, without what this machine remembers of other copies of the journal."""
    found = verify(ArtifactIndex(shop.store.root)).problems
    return [f"{finding.code} {finding.where}" for finding in found if finding.code != "dropped_changes"]


def recorded(shop: Shop) -> dict[str, bytes]:
    """The content of all files that a copy has."""
    root = shop.store.root
    parts = ("artifacts", "blobs", "current", "champion", "redactions", "exposures", FILE_NAME, "signing_key.pub")
    paths = [path for part in parts for path in [root / part, *(root / part).rglob("*")] if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def keys(s3: Any) -> set[str]:
    return {entry["Key"] for entry in s3.list_objects_v2(Bucket="copies").get("Contents", [])}


@pytest.mark.long
@pytest.mark.parametrize("signed", [True, False])
def test_a_copy_in_an_empty_project_is_the_store(s3: Any, projects: Projects, signed: bool) -> None:
    here, there = projects.finished(signed=signed), projects.empty()
    sent = send(here, BUCKET)
    received = receive(there, BUCKET)
    assert recorded(there) == recorded(here) and faults(there) == []
    assert (received.order, received.artifacts) == ("behind", len(here.store.all()))
    assert received.files == sent.files and (received.key is not None) == signed
    assert not (there.store.root / "drafts" / "pull").exists()
    there.materialize()  # both go on
    assert faults(there) == []


def test_only_what_is_new_is_sent_and_fetched(s3: Any, projects: Projects) -> None:
    here, there = projects.finished(), projects.empty()
    send(here, BUCKET)
    receive(there, BUCKET)
    before = keys(s3)
    assert send(here, BUCKET).sent == 0 and keys(s3) == before, "nothing changed, so there is no new state"
    here.put("scores", "lora", {}, {}, {"samples.json": b"{}"})
    assert send(here, BUCKET).sent == 4, "the manifest, the file, the pointer, the journal, and no other file"
    assert before < keys(s3)
    received = receive(there, BUCKET)
    assert (received.artifacts, received.number) == (1, 2)
    assert recorded(there) == recorded(here) and faults(there) == []


def test_a_folder_is_a_place_and_a_store_that_is_behind_pulls_first(projects: Projects, tmp_path: Path) -> None:
    here, there, address = projects.finished(), projects.empty(), f"file://{tmp_path}/a%20disk"
    send(here, address)
    receive(there, address)
    there.put("scores", "lora", {}, {}, {"samples.json": b"{}"})
    send(there, address)
    with pytest.raises(UserError, match=r"has 2 signed changes that this store lacks. Run `ft store pull .*a disk`"):
        send(here, address)
    assert receive(here, address).artifacts == 1
    assert recorded(here) == recorded(there) and send(here, address).sent == 0
    assert receive(here, address).order == "equal"
    assert not any("pem" in path.suffix or b"PRIVATE" in path.read_bytes() for path in files(tmp_path / "a disk"))
    assert (tmp_path / "a disk").stat().st_mode & 0o077 == 0, "only the owner can look into it"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("signed", SIGNED)
def test_diverged_histories_are_refused_and_both_stay(projects: Projects, tmp_path: Path, signed: bool) -> None:
    here, there, address = projects.finished(signed=signed), projects.empty(), str(tmp_path / "disk")
    send(here, address)
    receive(there, address)
    here.put("scores", "lora", {}, {}, {"samples.json": b"{}"})
    there.put("scores", "dpo", {}, {}, {"samples.json": b"[]"})
    send(there, address)
    before = recorded(here), {path: path.read_bytes() for path in files(tmp_path / "disk")}
    for command in (send, receive):
        with pytest.raises(UserError, match="different histories") as error:
            command(here, address)
        if signed:
            lines = [(shop.store.root / FILE_NAME).read_bytes().splitlines() for shop in (here, there)]
            common = next(n for n, pair in enumerate(zip(*lines, strict=True)) if pair[0] != pair[1])
            for shop, own in zip((here, there), lines, strict=True):
                assert f"ends at line {len(own)} ({hashlib.sha256(own[-1]).hexdigest()[:16]}" in str(error.value), shop
            assert f"the same up to line {common}" in str(error.value)
        assert "pull it into an empty project" in str(error.value) and "push it to another place" in str(error.value)
    assert (recorded(here), {path: path.read_bytes() for path in files(tmp_path / "disk")}) == before


def test_the_copy_of_another_store_is_refused(projects: Projects, tmp_path: Path) -> None:
    here, other, address = projects.finished(), projects.empty("other"), str(tmp_path / "disk")
    other.put("scores", "lora", {}, {}, {"samples.json": b"{}"})
    send(other, address)
    with pytest.raises(UserError, match="they have no line in common"):
        send(here, address)
    with pytest.raises(UserError, match="they have no line in common"):
        receive(here, address)


@pytest.mark.parametrize("signed", SIGNED)
def test_erased_rows_never_come_back(projects: Projects, tmp_path: Path, signed: bool) -> None:
    here, there, address = projects.finished(signed=signed), projects.empty(), str(tmp_path / "disk")
    send(here, address)
    receive(there, address)
    erase_secret(here)
    redacted = recorded(here)
    assert receive(here, address).order == "ahead" and recorded(here) == redacted, "the unredacted copy is not fetched"
    sent = send(here, address)
    assert sent.unused, "the objects with the row are named"
    texts = list(SECRET.values())
    unredacted = {path.name for path in files(tmp_path / "disk" / "objects") if contains(path, texts)}
    assert unredacted and unredacted <= {Path(name).name for name in sent.unused}
    (there.store.root / "cache").mkdir(exist_ok=True)
    (there.store.root / "cache" / "rows").write_text(SECRET["output"])
    received = receive(there, address)
    assert recorded(there) == redacted and faults(there) == []
    assert "Rows were erased elsewhere" in received.notes[-1]
    assert not any(contains(path, texts) for path in files(there.store.root))
    assert (there.root / "data" / "excluded.yaml").read_bytes() == (here.root / "data" / "excluded.yaml").read_bytes()
    empty = projects.empty("new")
    receive(empty, address)
    assert recorded(empty) == redacted and faults(empty) == []
    there.materialize()
    assert not any(contains(path, texts) for path in files(there.store.root / "artifacts"))


def erase_secret(shop: Shop) -> None:
    """Erase the row about a person."""
    raw = shop.raw("alpaca", "support.jsonl")
    (row,) = [n for n, line in enumerate(raw.read_text().splitlines(), 1) if "Ada Fenwick" in line]
    erase(Project(shop.root), raw, [row], "request 4711")


def contains(path: Path, texts: list[str]) -> bool:
    content = path.read_bytes()
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        content = zstandard.ZstdDecompressor().stream_reader(content).read()
    if content.startswith(b"PAR1"):
        content = json.dumps(pq.read_table(pa.BufferReader(content)).to_pylist(), default=str).encode()
    return any(text.encode() in content for text in texts)


@pytest.mark.parametrize("signed", [True, False])
def test_removed_artifacts_are_not_pulled_again_and_are_removed_there(
    projects: Projects, tmp_path: Path, signed: bool
) -> None:
    here, address = projects.finished(signed=signed), str(tmp_path / "disk")
    old = here.put("scores", "lora", {}, {}, {"samples.json": b"{}"})
    here.put("scores", "lora", {}, {}, {"samples.json": b"[]"})
    send(here, address)
    there = projects.empty()
    receive(there, address)
    assert (there.store.root / old.path.relative_to(here.store.root)).is_dir()
    remove_garbage(here.store, Garbage([old]))
    received = receive(here, address)
    assert (received.order, received.artifacts) == ("ahead", 0) and not old.path.exists()
    send(here, address)
    assert receive(there, address).removed == 1
    assert recorded(there) == recorded(here) and faults(there) == []


def test_a_store_that_was_signed_later_goes_on_from_its_unsigned_copy(projects: Projects, tmp_path: Path) -> None:
    here, there, address = projects.finished(signed=False), projects.empty(signed=False), str(tmp_path / "disk")
    send(here, address)
    assert receive(there, address).key is None
    replace_key(here.store.root, "from now on")
    send(here, address)
    assert receive(there, address).key is not None
    assert recorded(there) == recorded(here) and faults(there) == []


def test_a_large_raw_file_that_the_store_refers_to_is_copied_with_its_bytes(projects: Projects, tmp_path: Path) -> None:
    here, there, address = projects.finished(), projects.empty(), str(tmp_path / "disk")
    blobs = BlobStore(here.store.root, by_reference_above=10)
    sha256 = blobs.add(here.raw("alpaca", "support.jsonl"))
    blobs.path(sha256).unlink()
    assert blobs.state(sha256) == "reference"
    send(here, address)
    receive(there, address)
    here.raw("alpaca", "support.jsonl").unlink()
    assert BlobStore(there.store.root).state(sha256) == "copy" and faults(there) == []
    assert send(there, address).sent == 1, "the compressed copy"
    missing = receive(here, address)
    assert blobs.state(sha256) == "copy" and missing.files == 1, "a pull restores what was lost"


def test_pointers_and_champions_follow(projects: Projects, tmp_path: Path) -> None:
    here, there, address = projects.finished(), projects.empty(), str(tmp_path / "disk")
    send(here, address)
    receive(there, address)
    made = there.materialize(learning_rate=2e-3)
    there.release(made, value=2.4)
    send(there, address)
    receive(here, address)
    pointer = AssetPointers(here.store.root).read("merged_model", "qlora")
    assert pointer is not None and pointer.fingerprint == made["merged_model"].fingerprint
    assert champion_of(here) == made["merged_model"].fingerprint
    assert faults(here) == []


def champion_of(shop: Shop) -> str:
    record = champion.current(shop.store.root)
    assert record is not None
    return record.fingerprint


@pytest.mark.long
def test_what_was_changed_in_the_bucket_is_found(s3: Any, projects: Projects) -> None:
    here = projects.finished()
    send(here, BUCKET)
    weights = here.store.all("adapter")[0].path / "adapter_model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    key = f"shop/objects/{sha256[:2]}/{sha256}"
    s3.put_object(Bucket="copies", Key=key, Body=b"x" * weights.stat().st_size)
    there = projects.empty()
    before = recorded(there)
    with pytest.raises(UserError, match=r"objects/.* was changed: its content is not that of its name"):
        receive(there, BUCKET)
    assert recorded(there) == before


def plant(copy: Path, name: str, content: bytes) -> None:
    """Change a file in the copy, and its hash in the state."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = copy / "objects" / sha256[:2] / sha256
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    newest = max((copy / "states").iterdir())
    state = json.loads(newest.read_bytes())
    state["files"][name] = [sha256, len(content)]
    newest.write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("artifacts/adapter/*/*/adapter_model.safetensors", "was changed"),
        ("artifacts/adapter/*/*/manifest.json", "lacks artifacts/adapter/.* as its history has it"),
        ("current/adapter@qlora.json", "lacks current/adapter@qlora.json as its history has it"),
        ("champion/000001.json", "lacks champion/000001.json as its history has it"),
        ("blobs/*/*.zst", "The raw file .* was changed"),
        ("signing_key.pub", "public key .* is not the one of its journal"),
        ("journal.jsonl", "The journal in .* was changed"),
        ("../../evil.py", "was changed .the entry"),
    ],
)
def test_a_changed_file_is_found_even_if_its_hash_in_the_state_is_changed_too(
    projects: Projects, tmp_path: Path, pattern: str, message: str
) -> None:
    here, there, copy = projects.finished(), projects.empty(), tmp_path / "disk"
    send(here, str(copy))
    listed = json.loads((copy / "states" / "000001.json").read_bytes())["files"]
    plant(copy, next((name for name in listed if fnmatch(name, pattern)), pattern), b"changed")
    before = recorded(there)
    with pytest.raises(UserError, match=message):
        receive(there, str(copy))
    assert recorded(there) == before


def test_an_added_file_is_not_used(projects: Projects, tmp_path: Path) -> None:
    here, there, copy = projects.finished(), projects.empty(), tmp_path / "disk"
    send(here, str(copy))
    plant(copy, "artifacts/adapter/0123/4567/manifest.json", b"{}")
    plant(copy, "cache/evil.py", b"{}")
    receive(there, str(copy))
    assert recorded(there) == recorded(here) and faults(there) == []
    assert not (there.store.root / "cache" / "evil.py").exists()


def test_a_copy_without_its_journal_replaces_no_signed_store(projects: Projects, tmp_path: Path) -> None:
    here, there, copy = projects.finished(), projects.empty(), tmp_path / "disk"
    send(here, str(copy))
    receive(there, str(copy))
    planted = projects.finished("planted", signed=False).put("scores", "lora", {}, {}, {"samples.json": b"{}"})
    for path in files(planted.path):
        plant(copy, path.relative_to(projects.folder / "planted" / "data" / "store").as_posix(), path.read_bytes())
    newest = copy / "states" / "000001.json"
    state = json.loads(newest.read_bytes())
    for name in (FILE_NAME, "signing_key.pub"):
        del state["files"][name]
    newest.write_text(json.dumps(state))
    before = recorded(there)
    for command in (send, receive):
        with pytest.raises(UserError, match=r"which are not signed; only the latter has artifacts/scores/"):
            command(there, str(copy))
    assert recorded(there) == before
    assert "The copy is not signed" in receive(projects.empty("new"), str(copy)).notes[-1]


def test_a_damaged_store_is_not_pushed(projects: Projects, tmp_path: Path) -> None:
    here = projects.finished()
    weights = here.store.all("adapter")[0].path / "adapter_model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    with pytest.raises(
        UserError, match=r"adapter_model.safetensors is not as it was recorded. Run `ft audit --verify`"
    ):
        send(here, str(tmp_path / "disk"))
    assert not (tmp_path / "disk" / "states").exists()
    (here.store.root / "current" / "adapter@qlora.json").write_text("{}")
    with pytest.raises(UserError, match=r"The store is not as it was signed: current/adapter@qlora.json"):
        send(here, str(tmp_path / "disk"))


def test_a_damaged_artifact_that_was_built_again_is_no_obstacle_and_is_repaired_by_a_pull(
    projects: Projects, tmp_path: Path
) -> None:
    here, address = projects.finished(), str(tmp_path / "disk")
    intact = recorded(here)
    damaged = here.store.all("adapter")[0].path / "adapter_model.safetensors"
    weights = damaged.read_bytes()
    damaged.write_bytes(b"x" * len(weights))
    again = here.materialize()["adapter"].path
    assert again != damaged.parent and (again / damaged.name).read_bytes() == weights
    send(here, address)
    shutil.rmtree(damaged.parent)
    assert receive(here, address).artifacts == 1
    assert faults(here) == []
    now = recorded(here)
    assert all(now[name] == content for name, content in intact.items() if name.startswith("artifacts/"))


def test_places_that_cannot_be_used_are_refused(s3: Any, projects: Projects, tmp_path: Path) -> None:
    here, empty = projects.finished(), projects.empty()
    (tmp_path / "file").write_text("")
    for address, message in (
        ("gs://bucket/folder", "is not a place for copies"),
        ("s3://copies", "names no folder in a bucket"),
        ("s3://nowhere/shop", "There is no bucket 'nowhere'"),
        (str(here.root / "data" / "copy"), "is in the project itself"),
        (str(tmp_path / "file"), "is a file. Name a folder"),
    ):
        with pytest.raises(UserError, match=message):
            send(here, address)
    with pytest.raises(UserError, match="This store is empty"):
        send(empty, BUCKET)
    with pytest.raises(UserError, match=r"There is no copy of a store in s3://copies/shop. Write one"):
        receive(empty, BUCKET)


def test_what_a_run_records_meanwhile_is_left_for_the_next_push(projects: Projects, tmp_path: Path) -> None:
    here, there, address = projects.finished(), projects.empty(), str(tmp_path / "disk")
    before, recording = recorded(here), iter([True])

    def record(done: int, total: int) -> None:
        if next(recording, False):
            here.put("scores", "qlora", {}, {}, {"samples.json": b"{}"})

    push(here.store.root, open_place(address, here.root), "shop", record)
    receive(there, address)
    assert recorded(there) == before and faults(there) == [], "one moment of the store"
    send(here, address)
    receive(there, address)
    assert recorded(there) == recorded(here) and faults(there) == []


def test_a_pull_into_a_store_that_records_something_meanwhile_changes_nothing(
    projects: Projects, tmp_path: Path
) -> None:
    here, there, address = projects.finished(), projects.empty(), str(tmp_path / "disk")
    send(here, address)
    receive(there, address)
    here.put("scores", "lora", {}, {}, {"samples.json": b"{}"})
    send(here, address)
    recording = iter([True])

    def record(done: int, total: int) -> None:
        if next(recording, False):
            there.put("scores", "dpo", {}, {}, {"samples.json": b"[]"})

    with pytest.raises(UserError, match=r"Something was recorded in this store meanwhile. Run `ft store pull` again"):
        pull(there.store.root, open_place(address, there.root), record)
    assert faults(there) == [] and AssetPointers(there.store.root).read("scores", "lora") is None
    with pytest.raises(UserError, match="different histories"):
        receive(there, address)


def test_an_erasure_is_not_taken_over_while_a_run_is_in_progress(projects: Projects, tmp_path: Path) -> None:
    here, there, address = projects.finished(), projects.empty(), str(tmp_path / "disk")
    send(here, address)
    receive(there, address)
    erase_secret(here)
    send(here, address)
    before = recorded(there)
    with project_lock(there.store.root).hold(shared=True), pytest.raises(UserError, match="a run is in progress"):
        receive(there, address)
    assert recorded(there) == before


@pytest.mark.parametrize("address", [BUCKET, "disk"])
def test_of_two_pushes_at_once_one_is_refused(s3: Any, tmp_path: Path, address: str) -> None:
    place = open_place(address if address == BUCKET else str(tmp_path / address))
    first = write_state(place, None, "store", "shop", {})
    assert first.number == 1
    with pytest.raises(UserError, match=r"Somebody else wrote to .* at the same time"):
        write_state(place, None, "store", "shop", {"journal.jsonl": CopiedFile("0" * 64, 1)})
    assert newest_state(place, "store") == first


@pytest.mark.parametrize("address", [BUCKET, "disk"])
def test_the_progress_counts_the_bytes_inside_a_large_file(s3: Any, tmp_path: Path, address: str) -> None:
    place = open_place(address if address == BUCKET else str(tmp_path / address))
    content = bytes(range(256)) * (3 << 12)
    (tmp_path / "large").write_bytes(content)
    file = LocalFile(hashlib.sha256(content).hexdigest(), len(content), tmp_path / "large")
    sent: list[tuple[int, int]] = []
    send_objects(place, {"large": file}, lambda done, total: sent.append((done, total)))
    fetched: list[tuple[int, int]] = []
    fetch_objects(place, [file.entry], tmp_path / "there", lambda done, total: fetched.append((done, total)))
    assert (tmp_path / "there" / file.sha256).read_bytes() == content
    for reports in (sent, fetched):
        assert reports[0] == (0, len(content)) and reports[-1] == (len(content), len(content))
        assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert len(fetched) > 3
