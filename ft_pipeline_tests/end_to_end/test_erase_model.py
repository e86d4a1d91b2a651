"""A deletion request against a model: forget a row that it learned from, train again without it, audit old and new."""

import shutil
from pathlib import Path

import pytest

from ft_pipeline_tests.end_to_end.project import Finished, ft_in_turn, ft_json

pytestmark = [pytest.mark.slow, pytest.mark.long]
RUN = ("run", "--experiment", "qlora")
MADE_WITH_IT = {"raw_alpaca", "alpaca", "conversations", "training_data", "adapter", "merged_model"}


@pytest.fixture
def root(finished: Finished, tmp_path: Path) -> Path:
    """The finished project, whose row may go."""
    assert finished.run.returncode == 0, finished.run.stderr[-4000:]
    shutil.copytree(finished.root, tmp_path / "shop")
    return tmp_path / "shop"


def test_the_model_is_trained_again_without_the_row(root: Path) -> None:
    rows = ft_json(root, "audit", "qlora", "--rows")["rows"]
    row = next(each for each in rows if each["split"] == "train" and each["table"] == "alpaca")
    raw = ("erase", f"data/raw/alpaca/{row['file']}", str(row["row"]), "--reason", "request 4711")
    (_, old), (_, done), (code, after) = ft_in_turn(
        root, ("audit", "qlora", "--verify"), raw, ("audit", "qlora", "--verify")
    )
    assert old["verified"] is True
    assert "qlora" in done["retrain"]
    assert code == 0 and after["verified"] is False and after["problems"] == []
    status = {node["kind"]: node["status"] for node in after["nodes"]}
    assert {status[kind] for kind in MADE_WITH_IT} == {"redacted"}
    assert status["base_model"] == status["sharegpt"] == "verified"

    (ran_code, ran), (_, new), (_, left), (_, again) = ft_in_turn(
        root, RUN, ("audit", "qlora", "--verify"), ("audit", "qlora", "--rows"), ("audit", "qlora", "--left-out")
    )
    assert ran_code == 0
    assert {step["asset"] for step in ran["steps"]} >= MADE_WITH_IT | {"scores", "comparison"}
    assert new["verified"] is True and new["redacted"] == []
    fingerprints = [{node["kind"]: node["fingerprint"] for node in each["nodes"]} for each in (old, new)]
    assert all(fingerprints[0][kind] != fingerprints[1][kind] for kind in MADE_WITH_IT)
    assert fingerprints[0]["base_model"] == fingerprints[1]["base_model"]
    assert row["id"] not in {each["id"] for each in left["rows"]}
    assert len(left["rows"]) < len(rows)
    assert (row["file"], row["row"], "excluded") in {(it["file"], it["row"], it["code"]) for it in again["rows"]}

    (_, before), (_, seen) = ft_in_turn(
        root, ("audit", fingerprints[0]["merged_model"], "--verify"), ("audit", "--row", row["origin"])
    )
    assert before["verified"] is False and before["problems"] == []
    assert next(node["status"] for node in before["nodes"] if node["kind"] == "merged_model") == "redacted"
    assert seen["retrain"] == [], "no present model learned from it"
    assert {use["present"] for use in seen["uses"] if use["how"] == "trained on it"} == {False}
