"""Garbage collection removes what is unreachable and keeps what is reachable, including the raw files."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.errors import UserError
from ft_pipeline.execution.garbage_collection import collect_garbage
from ft_pipeline.project import Project
from ft_pipeline.release.champion import promote
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.snapshot import Snapshot, checkout, read_listing, write_listing
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.blobs import INCOMING_PREFIX
from ft_pipeline.store.garbage import find_garbage
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.removals import logged_removals
from ft_pipeline.store.spec import Spec


class Shop:
    """A project with a raw file, a table and a model. Each version replaces the last; `retention.keep_days` is 0."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        (root / "project.yaml").write_text("name: shop\nretention:\n  keep_days: 0\n", encoding="utf-8")
        (root / "experiments").mkdir()
        (root / "experiments" / "lora.yaml").write_text("technique: lora\n", encoding="utf-8")
        self.project = Project(root)
        self.store = ArtifactStore(self.project.store)

    def add_version(self, text: str, experiment: str = "lora") -> dict[str, Artifact]:
        raw = self.project.raw_folder("text")
        raw.mkdir(parents=True, exist_ok=True)
        (raw / "a.txt").write_text(text, encoding="utf-8")
        spec = snapshot_folder(raw, self.store).spec("text")
        draft = self.store.begin(spec)
        artifacts = {
            "raw_text": self.store.commit(draft, write_listing(Snapshot.from_json(spec.config), draft.out)),
        }
        artifacts["text"] = self.commit("text", text, artifacts["raw_text"])
        artifacts["merged_model"] = self.commit("merged_model", text, artifacts["text"])
        for kind, artifact in artifacts.items():
            AssetPointers(self.store.root).write(kind, experiment if kind == "merged_model" else None, artifact)
        return artifacts

    def commit(self, kind: str, content: str, *inputs: Artifact) -> Artifact:
        draft = self.store.begin(
            Spec(kind, {artifact.kind: artifact.reference for artifact in inputs}, {"of": content})
        )
        (draft.out / "content").write_text(content, encoding="utf-8")
        return self.store.commit(draft, {})

    def kinds(self) -> list[str]:
        return sorted(artifact.kind for artifact in self.store.all())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


def test_old_versions_are_removed_and_the_current_one_stays(shop: Shop) -> None:
    old = shop.add_version("first")
    new = shop.add_version("second")
    planned = collect_garbage(shop.project, dry_run=True)
    assert len(shop.store.all()) == 6, "a dry run removes nothing"
    collected = collect_garbage(shop.project, dry_run=False)
    assert collected.to_json() == planned.to_json()
    assert {artifact.fingerprint for artifact in collected.artifacts} == {
        artifact.fingerprint for artifact in old.values()
    }
    assert (len(collected.blobs), collected.bytes > 0) == (1, True)
    assert logged_removals(shop.store.root) == {artifact.reference for artifact in old.values()}
    assert shop.kinds() == ["merged_model", "raw_text", "text"]
    (local_copy,) = checkout(read_listing(new["raw_text"]), shop.store, shop.project.root / "out")
    assert local_copy.path is not None and local_copy.path.read_text(encoding="utf-8") == "second"
    assert collect_garbage(shop.project, dry_run=False).to_json() == {
        "artifacts": [],
        "folders": [],
        "blobs": 0,
        "bytes": 0,
    }


def test_every_past_champion_stays_with_its_inputs(shop: Shop) -> None:
    for text in ("first", "second"):
        artifacts = shop.add_version(text)
        parts = {"merged_model": artifacts["merged_model"].fingerprint}
        candidate = Candidate(
            name=text, kind="merged", experiment="lora", fingerprint=parts["merged_model"], fingerprints=parts
        )
        promote(shop.store.root, lambda current, chosen=candidate: Promotion(candidate=chosen, reason="better"))
    shop.add_version("third")
    assert collect_garbage(shop.project, dry_run=False).artifacts == []
    assert len(shop.store.all()) == 9


def test_recent_artifacts_stay_with_their_inputs(shop: Shop) -> None:
    shop.add_version("first")
    shop.add_version("second")
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert find_garbage(shop.store, [], hour_ago).artifacts == []


def test_artifacts_of_a_deleted_experiment_are_removed(shop: Shop) -> None:
    shop.add_version("first", experiment="gone")
    shop.add_version("second")
    assert len(collect_garbage(shop.project, dry_run=False).artifacts) == 3
    assert AssetPointers(shop.store.root).read("merged_model", "gone") is None


def test_a_dropped_seed_is_removed_unless_the_yaml_is_invalid(shop: Shop) -> None:
    shop.add_version("first", experiment="lora.seed1")
    shop.add_version("second")
    path = shop.project.root / "experiments" / "lora.yaml"
    for text, removed_count in (("technique: magic\n", 0), ("seeds: 2\n", 0), ("seeds: 1\n", 3)):
        path.write_text(text, encoding="utf-8")
        assert len(collect_garbage(shop.project, dry_run=False).artifacts) == removed_count


def test_old_unfinished_work_is_removed_unless_it_is_being_built(shop: Shop) -> None:
    shop.add_version("first")
    spec, other_spec = Spec("adapter", config={"r": 1}), Spec("adapter", config={"r": 2})
    for draft in (shop.store.begin(spec), shop.store.begin(other_spec)):
        (draft.work / "checkpoint").write_text("state", encoding="utf-8")
    now = datetime.now(UTC) + timedelta(seconds=5)
    with shop.store.building(spec, print):
        assert len(find_garbage(shop.store, [], now).folders) == 2, "draft and checkpoints of the other spec"
    assert len(find_garbage(shop.store, [], now).folders) == 4
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert find_garbage(shop.store, [], yesterday).folders == []


def test_the_unfinished_blob_of_a_killed_process_is_removed(shop: Shop) -> None:
    shop.add_version("first")
    unfinished = shop.store.root / "blobs" / f"{INCOMING_PREFIX}abc"
    unfinished.write_bytes(b"half of it")
    assert collect_garbage(shop.project, dry_run=False).blobs == [unfinished] and not unfinished.exists()


def test_files_deleted_during_a_dry_run_cause_no_error(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may delete files meanwhile. To `stat`, a broken link looks the same."""
    draft = shop.store.begin(Spec("adapter", config={"r": 1}))
    (draft.work / "latest").symlink_to("nothing")
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: [*listed(self, pattern), self / "gone"])
    assert collect_garbage(shop.project, dry_run=True).folders == []
    monkeypatch.undo()
    assert len(find_garbage(shop.store, [], datetime.now(UTC) + timedelta(seconds=5)).folders) == 2


def test_nothing_is_removed_during_a_run(shop: Shop) -> None:
    shop.add_version("first")
    shop.add_version("second")
    run = FileLock(shop.store.root / "locks" / "runs" / "0123456789", "a run")
    assert run.try_acquire()
    with pytest.raises(UserError, match="Run 01234567 is under way"):
        collect_garbage(shop.project, dry_run=False)
    run.release()
    assert len(collect_garbage(shop.project, dry_run=False).artifacts) == 3


def test_a_damaged_artifact_is_kept_as_evidence(shop: Shop) -> None:
    old = shop.add_version("first")
    shop.add_version("second")
    manifest = old["text"].path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"first", b"fIrst"))
    os.utime(manifest)
    collect_garbage(shop.project, dry_run=False)
    assert manifest.is_file()
