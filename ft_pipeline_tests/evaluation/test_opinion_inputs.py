"""Which verdicts of people and of a judge the asset `comparison` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline import scaffold
from ft_pipeline.errors import UserError
from ft_pipeline.execution import run
from ft_pipeline.judge.opinions import opinions as judge_said
from ft_pipeline.project import Project
from ft_pipeline.release.champion import decision_key
from ft_pipeline.step import SpecContext
from ft_pipeline.steps.shared.compared_scores import people_said
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.evaluation.opined import judgement, rating

Rows = Sequence[dict[str, Any]]
JUDGE = {"model": "big", "prompt_version": 1, "rubric_sha256": "r"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run.load_steps()
    made = scaffold.create(tmp_path / "shop", example=False)
    settings = yaml.safe_load((made / "project.yaml").read_text(encoding="utf-8"))
    settings.setdefault("evaluation", {})["judge"] = {"model": "big", "endpoint": {"url": "http://127.0.0.1:9/v1"}}
    (made / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return made


def context_of(root: Path) -> SpecContext:
    return SpecContext(Project(root), ArtifactStore(root / "data" / "store"), None)


def put(root: Path, kind: str, rows: Rows, summary: dict[str, Any], label: str = "") -> Artifact:
    """Make an artifact, and let it be the current one of its asset."""
    store = ArtifactStore(root / "data" / "store")
    scores = store.begin(Spec("scores", {}, {"of": label}))
    (scores.out / "scores.json").write_text("{}")
    made = store.commit(scores, {})
    draft = store.begin(Spec(kind, {"a/scores": made.reference}, {"label": label}))
    pq.write_table(pa.Table.from_pylist(list(rows)), draft.out / f"{kind}.parquet")
    artifact = store.commit(draft, summary)
    AssetPointers(store.root).write(kind, None, artifact)
    return artifact


def test_without_verdicts_nothing_is_read(root: Path) -> None:
    assert people_said(context_of(root)) == {} == judge_said(context_of(root))
    put(root, "ratings", [rating(1, "rival")], {"verdicts": 0})
    assert people_said(context_of(root)) == {}


def test_ratings_are_read_and_make_another_decision(root: Path) -> None:
    made = put(root, "ratings", [rating(1, "rival")], {"verdicts": 1})
    [(name, read)] = people_said(context_of(root)).items()
    assert (name, read.fingerprint) == ("ratings", made.fingerprint)
    scores, other = (
        {"a/scores": ("scores", "1")},
        {"judgements": ("judgements", "2"), "judgements.1": ("judgements", "3")},
    )
    assert decision_key(scores, {}) == decision_key(scores | other, {})
    assert decision_key(scores, {}) != decision_key(scores | {"ratings": made.reference}, {})


def test_ratings_that_are_missing_from_the_store_are_an_error(root: Path) -> None:
    made = put(root, "ratings", [rating(1, "rival")], {"verdicts": 1})
    (made.path / "manifest.json").unlink()
    with pytest.raises(UserError, match="ratings is damaged or missing"):
        people_said(context_of(root))


def test_earlier_verdicts_of_the_same_judge_on_rated_answers_are_read(root: Path) -> None:
    """Of four earlier tables, one is of another judge, one has no rated answers, and one only what a newer one has."""
    put(root, "judgements", [judgement(1, 1.0)], JUDGE, "same, older")
    put(root, "judgements", [judgement(1, 1.0), judgement(2, 0.0)], {**JUDGE, "rubric_sha256": "other"}, "other judge")
    put(root, "judgements", [judgement(9, 1.0)], JUDGE, "nobody rated these")
    earlier = put(root, "judgements", [judgement(1, 1.0), judgement(3, 0.0)], JUDGE, "same")
    now = put(root, "judgements", [judgement(5, 1.0)], JUDGE, "now")
    assert set(judge_said(context_of(root))) == {"judgements"}
    put(root, "ratings", [rating(number, "rival") for number in (1, 2, 3, 5)], {"verdicts": 4})
    found = {name: artifact.fingerprint for name, artifact in judge_said(context_of(root)).items()}
    assert found == {"judgements": now.fingerprint, "judgements.1": earlier.fingerprint}


def test_a_project_without_a_judge_reads_no_verdicts_of_an_earlier_one(root: Path) -> None:
    put(root, "judgements", [judgement(5, 1.0)], JUDGE)
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    del settings["evaluation"]["judge"]
    (root / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert judge_said(context_of(root)) == {}
