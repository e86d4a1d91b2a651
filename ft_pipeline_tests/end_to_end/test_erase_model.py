"""A deletion request against a model: erase a row that it learned from, retrain it, audit the old and the new model."""

import shutil
from pathlib import Path

import pytest

from ft_pipeline_tests.end_to_end.project import Finished, ft_in_turn, ft_json

pytestmark = [pytest.mark.slow, pytest.mark.long]
RUN = ("run", "--experiment", "qlora")
BUILT_FROM_THE_ROW = {"raw_alpaca", "alpaca", "conversations", "training_data", "adapter", "merged_model"}


@pytest.fixture
def root(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished project."""
    shutil.copytree(finished.root, tmp_path / "shop")
    return tmp_path / "shop"


def test_the_model_is_retrained_without_the_erased_row(root: Path) -> None:
    rows = ft_json(root, "audit", "qlora", "--rows")["rows"]
    row = next(row for row in rows if row["split"] == "train" and row["table"] == "alpaca")
    raw = ("erase", f"data/raw/alpaca/{row['file']}", str(row["row"]), "--reason", "request 4711")
    (_, old), (_, done), (code, after) = ft_in_turn(
        root, ("audit", "qlora", "--verify"), raw, ("audit", "qlora", "--verify")
    )
    assert old["verified"] is True
    assert "qlora" in done["retrain"]
    assert code == 0 and after["verified"] is False and after["problems"] == []
    status = {node["kind"]: node["status"] for node in after["nodes"]}
    assert {status[kind] for kind in BUILT_FROM_THE_ROW} == {"redacted"}
    assert status["base_model"] == status["sharegpt"] == "verified"

    (ran_code, ran), (_, new), (_, remaining), (_, left_out) = ft_in_turn(
        root, RUN, ("audit", "qlora", "--verify"), ("audit", "qlora", "--rows"), ("audit", "qlora", "--left-out")
    )
    assert ran_code == 0
    assert {step["asset"] for step in ran["steps"]} >= BUILT_FROM_THE_ROW | {"scores", "comparison"}
    assert new["verified"] is True and new["redacted"] == []
    fingerprints = [{node["kind"]: node["fingerprint"] for node in audit["nodes"]} for audit in (old, new)]
    assert all(fingerprints[0][kind] != fingerprints[1][kind] for kind in BUILT_FROM_THE_ROW)
    assert fingerprints[0]["base_model"] == fingerprints[1]["base_model"]
    assert row["id"] not in {remaining_row["id"] for remaining_row in remaining["rows"]}
    assert len(remaining["rows"]) < len(rows)
    left_out_rows = {
        (left_out_row["file"], left_out_row["row"], left_out_row["code"]) for left_out_row in left_out["rows"]
    }
    assert (row["file"], row["row"], "excluded") in left_out_rows

    (_, before), (_, usage) = ft_in_turn(
        root, ("audit", fingerprints[0]["merged_model"], "--verify"), ("audit", "--row", row["origin"])
    )
    assert before["verified"] is False and before["problems"] == []
    assert next(node["status"] for node in before["nodes"] if node["kind"] == "merged_model") == "redacted"
    assert usage["retrain"] == [], "no present model learned from it"
    assert {use["present"] for use in usage["uses"] if use["how"] == "trained on it"} == {False}
