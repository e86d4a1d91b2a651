"""docs/results_of.py: what a finished project found, with its origin."""

import json
from pathlib import Path

import pytest
from results_of import FinishedProject

from ft_pipeline.errors import UserError
from ft_pipeline.scaffold import create
from ft_pipeline_tests.release.trained import Trained


@pytest.fixture(scope="module")
def finished(probed: Trained) -> FinishedProject:
    """A project with two experiments, compared and decided."""
    probed.decide()
    return FinishedProject(probed.root)


def test_a_result_has_scores_leads_verdict_times_and_origin(finished: FinishedProject) -> None:
    result = json.loads(json.dumps(finished.to_json("make demo", "next to other work", 1)))
    comparison = finished.comparison
    assert list(result["rows"]) == [row.name for row in comparison.rows]
    for row in comparison.rows:
        value = result["rows"][row.name]["scores"]["loss"][0]
        assert value == pytest.approx(row.scores["loss"].value, rel=1e-5)
        assert len(f"{value}".replace(".", "").replace("-", "").lstrip("0")) <= 6
    lead = next(claim for claim in comparison.of_kind("lead") if claim.value is not None)
    said = result["leads"][f"{lead.row} over {lead.rival}"][lead.measure][0]
    assert said == pytest.approx(lead.value, rel=1e-5)
    assert result["rows_read"]["test_answers"] == comparison.test_items
    assert result["machine"]["threads"] == 1 and result["machine"]["cpu"]
    assert result["command"] == "make demo" and result["note"] == "next to other work"
    assert len(result["commit"]) == 40 and result["version"]
    assert result["verdict"] == finished.decision["verdict"]
    assert result["seconds"]["all_steps"] >= 0
    assert result["trainings"]["lora"]["seconds_per_step"] == 6.0
    assert (finished.picture() or b"").startswith(b"\x89PNG")


def test_gains_against_the_best_prompt_are_counted_by_answer(finished: FinishedProject) -> None:
    rows = finished.to_json("x", "", 1)["rows"]
    best = finished.comparison.best_bar()
    assert best is not None and "better_answers" not in rows[best.name]
    others = [row for row in rows.values() if "better_answers" in row]
    assert others and all(row["best_prompt"] in rows for row in others)
    for row in others:
        assert 0 <= row["better_answers"] <= finished.comparison.test_items
        assert row["better_by_percent"][1] <= row["better_by_percent"][0] <= row["better_by_percent"][2]


def test_a_project_without_a_comparison_is_named(tmp_path: Path) -> None:
    root = create(tmp_path / "new", example=False)
    with pytest.raises(UserError, match=r"no comparison in .*new\. Run `ft run --project"):
        FinishedProject(root)
