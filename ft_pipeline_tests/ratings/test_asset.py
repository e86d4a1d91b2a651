"""The asset `ratings` in a real Dagster instance."""

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from ft_pipeline.evaluation.opinions.verdict_tables import hash_of_answer
from ft_pipeline.execution.planning import plan
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.project import Project
from ft_pipeline.ratings.ratings import FILE_NAME, SCHEMA
from ft_pipeline.step import STEPS
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.sql_views import query
from ft_pipeline_tests.graph import ASSETS
from ft_pipeline_tests.ratings.rated import PROMPT, TUNED, RatedProject


def materialize(project: RatedProject, tmp_path: Path) -> dict[str, Any]:
    """Materialize the asset; returns what its page shows."""
    (tmp_path / "dagster").mkdir(exist_ok=True)
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        result = dg.materialize([ASSETS["ratings"]], instance=instance, resources=RESOURCES)
    (event,) = result.asset_materializations_for_node("ratings")
    return {key: value.value for key, value in event.metadata.items()}


def table(project: RatedProject) -> list[dict[str, Any]]:
    artifact = current_artifact(project.store, "ratings")
    assert artifact is not None
    found = pq.read_table(artifact.path / FILE_NAME)
    assert found.schema.equals(SCHEMA)
    return found.to_pylist()


def state(project: RatedProject) -> tuple[str, str]:
    (planned,) = [step for step in plan(Project(project.root), [], selected=["ratings"]) if step.asset == "ratings"]
    return planned.state, planned.reason


def test_it_comes_before_the_comparison_and_needs_no_ratings(project: RatedProject, tmp_path: Path) -> None:
    assert "ratings" in STEPS["comparison"].deps
    metadata = materialize(project, tmp_path)
    assert metadata["verdicts"] == 0
    assert "Nobody has rated answers yet" in metadata["how"]
    assert table(project) == []
    assert state(project)[0] == "fresh"


def test_a_row_per_verdict_and_the_result_on_its_page(project: RatedProject, tmp_path: Path) -> None:
    materialize(project, tmp_path)
    match = project.match()
    first, second = match.pairs[:2]
    match.rate(first, "r1", "rival", note="Too short.", seconds=2.5)
    assert state(project)[0] == "stale"
    match.rate(first, "r1", "candidate")
    match.rate(second, "r2", "neither")
    metadata = materialize(project, tmp_path)
    assert state(project)[0] == "fresh"
    rows = table(project)
    assert [(row["rater"], row["verdict"]) for row in rows] == [("r1", "rival"), ("r1", "candidate"), ("r2", "neither")]
    assert rows[0] | {"time": ""} == {
        "time": "",
        "rater": "r1",
        "candidate": TUNED,
        "rival": PROMPT,
        "item": first.item,
        "group": first.item.removesuffix(":1"),
        "candidate_answer": hash_of_answer(first.answers[TUNED]),
        "rival_answer": hash_of_answer(first.answers[PROMPT]),
        "candidate_side": match.side_of(TUNED, first, "r1"),
        "verdict": "rival",
        "seconds": 2.5,
        "note": "Too short.",
    }
    shown, *_ = metadata["all_results"]
    assert (shown["candidate"], shown["pairs"], shown["wins"], shown["ties"], shown["can_go_out"]) == (
        TUNED,
        2,
        1,
        1,
        0.5,
    )
    assert f"{TUNED} is better in 1, {PROMPT} in 0; 1 are ties." in metadata["in_words"]
    assert "Too short." not in str(metadata)


def test_a_damaged_record_stops_it(project: RatedProject, tmp_path: Path) -> None:
    match = project.match()
    match.rate(match.pairs[0], "r1", "rival")
    (project.store.root / "ratings" / "000001.json").unlink()
    with pytest.raises(dg.Failure, match=r"The record of ratings is damaged: ratings/000001\.json"):
        materialize(project, tmp_path)


def test_the_table_can_be_queried(project: RatedProject, tmp_path: Path) -> None:
    match = project.match()
    match.rate(match.pairs[0], "r1", "rival")
    materialize(project, tmp_path)
    assert query(project.store, "select rater, verdict from ratings") == (["rater", "verdict"], [("r1", "rival")])
