"""What `ft erase`, copies and backups do with ratings."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.audit.verify import verify
from ft_pipeline.copies.places import open_place
from ft_pipeline.copies.pull import pull
from ft_pipeline.copies.push import push
from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.ratings.rating_ledger import Rating, append_rating, content_digest, read_ratings, seed_of
from ft_pipeline.ratings.ratings import FILE_NAME, write_table
from ft_pipeline.store.journal import sign_new_store
from ft_pipeline_tests.audit.conftest import Command, ft, ft_json, opened
from ft_pipeline_tests.audit.shop import SECRET, Shop
from ft_pipeline_tests.erasure.test_erase import erase_row, erased_row_id, files_containing

__all__ = ["ft", "ft_json", "opened"]
NOTE = f"As in: {SECRET['output']}"


def rating(item: str, note: str | None, rater: str = "r1") -> Rating:
    answers = ("a" * 64, "b" * 64)
    return Rating("2026-11-28T04:00:00+00:00", rater, "lora", "few_shot", item, *answers, 1, "candidate", 2.5, note)


@pytest.fixture(scope="session")
def rated_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a signed project with ratings of a row that will be erased, and of others."""
    made = Shop(tmp_path_factory.mktemp("rated") / "shop")
    made.write_project()
    sign_new_store(made.store.root)
    made.materialize()
    root = made.store.root
    seed_of(root, ("lora", "few_shot"))
    append_rating(root, rating(f"{erased_row_id(made)}:1", "Ada is served well here."))
    append_rating(root, rating("0123:1", "Short."))
    append_rating(root, rating("4567:1", NOTE))
    write_table(read_ratings(root), draft := root.parent)
    content = (draft / FILE_NAME).read_bytes()
    (draft / FILE_NAME).unlink()
    made.put("ratings", None, {}, {"records": 4}, {FILE_NAME: content}, {"results": []})
    return made.root


@pytest.fixture
def shop(rated_shop: Path, opened: Path) -> Shop:
    """A copy of it, which a test may change."""
    shutil.copytree(rated_shop, opened)
    return Shop(opened)


def problems(shop: Shop) -> list[str]:
    return [f"{finding.code} {finding.where}" for finding in verify(ArtifactIndex(shop.store.root)).problems]


def test_ratings_of_an_erased_row_tell_nothing_any_more(shop: Shop, ft_json: Command) -> None:
    row_id, before = erased_row_id(shop), content_digest(shop.store.root)
    assert files_containing(shop.root, "Ada is served")
    assert problems(shop) == []
    result = erase_row(ft_json)
    assert "ratings" in {artifact["kind"] for artifact in result["artifacts"]}
    assert files_containing(shop.root, "Fenwick", "Mill Lane", row_id, "Ada is served") == []
    kept = read_ratings(shop.store.root)
    assert [(kept_one.item, kept_one.note) for kept_one in kept] == [
        ("0123:1", "Short."),
        ("4567:1", "As in: [forgotten]"),
    ]
    assert kept[1].group == "4567"
    assert [problem for problem in problems(shop) if "ratings" in problem] == []
    assert content_digest(shop.store.root) != before  # the asset is stale
    (table,) = (shop.store.root / "artifacts" / "ratings").glob("*/*/ratings.parquet")
    assert pq.read_table(table).to_pylist()[0]["note"] == "[forgotten]"


def test_a_redacted_rating_cannot_be_changed_into_another(shop: Shop, ft_json: Command) -> None:
    erase_row(ft_json)
    (path,) = [path for path in (shop.store.root / "ratings" / "rows").iterdir() if "0123:1" in path.read_text()]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"item": "4567:1"}))
    assert "edited_record ratings/000003.json" in problems(shop)
    with pytest.raises(UserError, match=r"ratings/000003\.json refers to rows/[0-9a-f]{64}\.json, which was edited"):
        read_ratings(shop.store.root)


def test_a_copy_brings_ratings_and_their_redactions(shop: Shop, ft_json: Command, tmp_path: Path) -> None:
    there = Shop(tmp_path / "there")
    there.write_project()
    place = open_place(str(tmp_path / "copy"), shop.root)
    push(shop.store.root, place, "shop", lambda done, total: None)
    pull(there.store.root, place, lambda done, total: None)
    assert read_ratings(there.store.root) == read_ratings(shop.store.root)
    assert len(read_ratings(there.store.root)) == 3
    erase_row(ft_json)
    push(shop.store.root, place, "shop", lambda done, total: None)
    pull(there.store.root, place, lambda done, total: None)
    assert read_ratings(there.store.root) == read_ratings(shop.store.root)
    assert files_containing(there.store.root, "Ada is served") == []
    assert [problem for problem in problems(there) if "ratings" in problem] == []


def test_a_rating_that_was_changed_in_a_copy_is_refused(shop: Shop, tmp_path: Path) -> None:
    there = Shop(tmp_path / "there")
    there.write_project()
    changed = next((shop.store.root / "ratings" / "rows").iterdir())
    changed.write_text(json.dumps(json.loads(changed.read_text()) | {"note": "Better."}))
    place = open_place(str(tmp_path / "copy"), shop.root)
    push(shop.store.root, place, "shop", lambda done, total: None)
    with pytest.raises(UserError, match=r"ratings/rows/[0-9a-f]{64}\.json in .* was changed\. Restore the copy\."):
        pull(there.store.root, place, lambda done, total: None)


def test_ratings_go_with_a_backup(shop: Shop, ft: Command, tmp_path: Path) -> None:
    before = read_ratings(shop.store.root)
    assert ft("backup", str(tmp_path / "backup"))[0] == 0
    shutil.rmtree(shop.root)
    assert ft("restore", str(tmp_path / "backup"), str(tmp_path / "restored"))[0] == 0
    assert read_ratings(tmp_path / "restored" / "data" / "store") == before
