"""What nothing leads to goes; what anything leads to stays, down to the raw bytes."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.execution.garbage_collection import collect
from ft_pipeline.project import Project
from ft_pipeline.release.champion import Candidate, Promotion, promote
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.snapshot import Snapshot, checkout, read_listing, write_listing
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.blobs import INCOMING
from ft_pipeline.store.garbage import find_garbage, removed
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.spec import Spec


class Shop:
    """Raw file → table → model, each version over the last one; `retention.keep_days` is 0."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        (root / "project.yaml").write_text("name: shop\nretention:\n  keep_days: 0\n", encoding="utf-8")
        (root / "experiments").mkdir()
        (root / "experiments" / "lora.yaml").write_text("technique: lora\n", encoding="utf-8")
        self.project = Project(root)
        self.store = ArtifactStore(self.project.store)

    def version(self, text: str, experiment: str = "lora") -> dict[str, Artifact]:
        raw = self.project.raw("text")
        raw.mkdir(parents=True, exist_ok=True)
        (raw / "a.txt").write_text(text, encoding="utf-8")
        spec = snapshot_folder(raw, self.store).spec("text")
        draft = self.store.begin(spec)
        made = {
            "raw_text": self.store.commit(draft, write_listing(Snapshot.from_json(spec.config), draft.out)),
        }
        made["text"] = self.put("text", text, made["raw_text"])
        made["merged_model"] = self.put("merged_model", text, made["text"])
        for kind, artifact in made.items():
            AssetPointers(self.store.root).write(kind, experiment if kind == "merged_model" else None, artifact)
        return made

    def put(self, kind: str, content: str, *inputs: Artifact) -> Artifact:
        draft = self.store.begin(Spec(kind, {each.kind: each.reference for each in inputs}, {"of": content}))
        (draft.out / "content").write_text(content, encoding="utf-8")
        return self.store.commit(draft, {})

    def kinds(self) -> list[str]:
        return sorted(each.kind for each in self.store.all())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


def test_old_versions_go_and_the_present_one_stays_down_to_its_bytes(shop: Shop) -> None:
    old = shop.version("first")
    new = shop.version("second")
    planned = collect(shop.project, dry_run=True)
    assert len(shop.store.all()) == 6, "a dry run removes nothing"
    done = collect(shop.project, dry_run=False)
    assert done.to_json() == planned.to_json()
    assert {each.fingerprint for each in done.artifacts} == {each.fingerprint for each in old.values()}
    assert (len(done.blobs), done.bytes > 0) == (1, True)
    assert removed(shop.store.root) == {each.reference for each in old.values()}
    assert shop.kinds() == ["merged_model", "raw_text", "text"]
    (taken,) = checkout(read_listing(new["raw_text"]), shop.store, shop.project.root / "out")
    assert taken.path is not None and taken.path.read_text(encoding="utf-8") == "second"
    assert collect(shop.project, dry_run=False).to_json() == {"artifacts": [], "folders": [], "blobs": 0, "bytes": 0}


def test_every_champion_there_was_stays_with_all_that_it_was_made_from(shop: Shop) -> None:
    for text in ("first", "second"):
        made = shop.version(text)
        parts = {"merged_model": made["merged_model"].fingerprint}
        candidate = Candidate(text, "merged", "lora", parts["merged_model"], parts)
        promote(shop.store.root, lambda present, it=candidate: Promotion(it, "better"))
    shop.version("third")
    assert collect(shop.project, dry_run=False).artifacts == []
    assert len(shop.store.all()) == 9


def test_what_is_young_stays_with_all_that_it_was_made_from(shop: Shop) -> None:
    shop.version("first")
    shop.version("second")
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert find_garbage(shop.store, [], hour_ago).artifacts == []


def test_an_experiment_whose_yaml_is_gone_goes(shop: Shop) -> None:
    shop.version("first", experiment="gone")
    shop.version("second")
    assert len(collect(shop.project, dry_run=False).artifacts) == 3
    assert AssetPointers(shop.store.root).read("merged_model", "gone") is None


def test_a_seed_that_is_no_longer_asked_for_goes_and_one_of_a_broken_yaml_stays(shop: Shop) -> None:
    shop.version("first", experiment="lora.seed1")
    shop.version("second")
    path = shop.project.root / "experiments" / "lora.yaml"
    for text, gone in (("technique: magic\n", 0), ("seeds: 2\n", 0), ("seeds: 1\n", 3)):
        path.write_text(text, encoding="utf-8")
        assert len(collect(shop.project, dry_run=False).artifacts) == gone


def test_unfinished_work_goes_when_it_is_old_and_nobody_is_at_it(shop: Shop) -> None:
    shop.version("first")
    spec, other = Spec("adapter", config={"r": 1}), Spec("adapter", config={"r": 2})
    for draft in (shop.store.begin(spec), shop.store.begin(other)):
        (draft.work / "checkpoint").write_text("state", encoding="utf-8")
    now = datetime.now(UTC) + timedelta(seconds=5)
    with shop.store.building(spec, print):
        assert len(find_garbage(shop.store, [], now).folders) == 2, "draft and checkpoints of the other one"
    assert len(find_garbage(shop.store, [], now).folders) == 4
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert find_garbage(shop.store, [], yesterday).folders == []


def test_a_copy_that_a_killed_process_left_goes(shop: Shop) -> None:
    shop.version("first")
    left = shop.store.root / "blobs" / f"{INCOMING}abc"
    left.write_bytes(b"half of it")
    assert collect(shop.project, dry_run=False).blobs == [left] and not left.exists()


def test_what_goes_while_a_dry_run_looks_stops_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run beside it writes and removes files; a link to nothing is the same to `stat`."""
    draft = shop.store.begin(Spec("adapter", config={"r": 1}))
    (draft.work / "latest").symlink_to("nothing")
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: [*listed(self, pattern), self / "gone"])
    assert collect(shop.project, dry_run=True).folders == []
    monkeypatch.undo()
    assert len(find_garbage(shop.store, [], datetime.now(UTC) + timedelta(seconds=5)).folders) == 2


def test_nothing_is_removed_under_a_run(shop: Shop) -> None:
    shop.version("first")
    shop.version("second")
    run = FileLock(shop.store.root / "locks" / "runs" / "0123456789", "a run")
    assert run.try_acquire()
    with pytest.raises(UserError, match="Run 01234567 is under way"):
        collect(shop.project, dry_run=False)
    run.release()
    assert len(collect(shop.project, dry_run=False).artifacts) == 3


def test_a_damaged_artifact_is_left_as_evidence(shop: Shop) -> None:
    old = shop.version("first")
    shop.version("second")
    manifest = old["text"].path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"first", b"fIrst"))
    os.utime(manifest)
    collect(shop.project, dry_run=False)
    assert manifest.is_file()
