"""The audit of a project that Dagster really ran: every kind of artifact, and Dagster's own record."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_pipeline.audit.verify import verify
from ft_pipeline.lineage.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline_tests.audit.tampering import edit, flip, some_file
from ft_pipeline_tests.end_to_end.project import PER_EXPERIMENT, SHARED, WITHOUT_ASSET, Finished, ft_here_json

pytestmark = pytest.mark.slow

VERIFY = ("audit", "qlora", "--verify")


@pytest.fixture(scope="module")
def copied(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project that the tests damage."""
    root = tmp_path_factory.mktemp("audited") / "shop"
    shutil.copytree(finished.root, root)
    return root


def problems(root: Path) -> list[str]:
    return [str(finding) for finding in verify(ArtifactIndex(root / "data" / "store")).problems]


def tampered(root: Path, change: Callable[[ArtifactNode], None]) -> dict[str, list[str]]:
    """Change one artifact of each kind, and restore them; returns the problems of each kind."""
    nodes = {node.kind: node for node in ArtifactIndex(root / "data" / "store").all()}
    assert set(nodes) == SHARED | PER_EXPERIMENT | WITHOUT_ASSET
    artifacts, aside = root / "data" / "store" / "artifacts", root / "aside"
    shutil.copytree(artifacts, aside)
    for node in nodes.values():
        change(node)
    found = problems(root)
    shutil.rmtree(artifacts)
    aside.rename(artifacts)
    assert problems(root) == []
    return {kind: [problem for problem in found if problem.startswith(node.label)] for kind, node in nodes.items()}


def test_the_store_agrees_with_dagsters_record(copied: Path) -> None:
    ((_, document),) = ft_here_json(copied, VERIFY)
    assert document["verified"] is True and document["notes"] == []
    assert document["counted"]["events_of_Dagster"] == len(SHARED | PER_EXPERIMENT)
    kinds = {node["kind"] for node in document["nodes"]}
    assert {"merged_model", "scores", "raw_alpaca", "raw_unlabelled", "teacher_answers"} <= kinds


def test_a_flipped_byte_is_found_in_every_kind(copied: Path) -> None:
    for kind, messages in tampered(copied, lambda node: flip(some_file(node.path or Path()))).items():
        assert len(messages) == 1 and "was changed" in messages[0], kind


def test_a_removed_file_is_found_in_every_kind(copied: Path) -> None:
    for kind, messages in tampered(copied, lambda node: some_file(node.path or Path()).unlink()).items():
        assert len(messages) == 1 and "was removed" in messages[0], kind


def test_an_edited_manifest_is_found_in_every_kind(copied: Path) -> None:
    def change(node: ArtifactNode) -> None:
        assert node.path is not None
        edit(node.path / "manifest.json", lambda manifest: manifest["run"].update(started_by="nobody"), reseal=True)

    for kind, messages in tampered(copied, change).items():
        assert messages and all("edited" in message for message in messages), kind


def test_an_event_without_its_artifact_is_found(copied: Path) -> None:
    """Every trace of the quarantine is removed from the store, and it is listed as removed by `ft gc`: Dagster and the
    journal still know of it."""
    store = copied / "data" / "store"
    (node,) = ArtifactIndex(store).all("quarantine")
    line = {"kind": "quarantine", "fingerprint": node.fingerprint}
    (store / "removed.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    shutil.rmtree(store / "artifacts" / "quarantine")
    (store / "current" / "quarantine.json").unlink()
    ((code, document),) = ft_here_json(copied, VERIFY)
    assert code == 1
    assert {finding["code"] for finding in document["findings"]} == {
        "event_without_artifact",
        "missing_artifact",
        "edited_pointer",
    }


def test_without_dagsters_database_only_the_store_is_verified(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "shop"
    shutil.copytree(finished.root, root)
    shutil.rmtree(root / "dagster_home")
    ((_, document),) = ft_here_json(root, VERIFY)
    assert document["verified"] is True
    assert document["notes"] == ["Dagster's event log is missing or empty; only the store was checked"]
