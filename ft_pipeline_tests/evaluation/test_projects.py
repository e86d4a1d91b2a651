"""Three small projects, each with another right answer: prompting is enough, too few rows, a gap of facts.

The real rules are held against scores that the embedded model gave (recorded.py).
"""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline import scaffold
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline_tests.decide.rules import desk_of
from ft_pipeline_tests.end_to_end.project import ft_here
from ft_pipeline_tests.evaluation.recorded import ASSETS, EXPERIMENT, PROJECTS, compared, training_of
from ft_pipeline_tests.worth.test_worth import LIGHT

ANSWERS = {
    "prompting_is_enough": ("prompt", "retrieved", "The prompt variant retrieved is at least as good"),
    "too_few_rows": ("prompt", "few_shot", "The prompt variant few_shot is at least as good"),
    "gap_of_facts": ("retrieval", "passages", "The model lacks facts"),
}
"""By the scores alone: the decision, the row that it speaks for, the first words of its first reason."""


@pytest.mark.parametrize("name", ANSWERS)
def test_the_rules_give_the_right_answer_on_recorded_scores(name: str) -> None:
    training = {EXPERIMENT: training_of(name)}
    found = recommend(desk_of(compared(name), training, 20))
    decision, row, reason = ANSWERS[name]
    assert (found["decision"], found["row"], found["experiment"]) == (decision, row, None), found["reasons"]
    assert found["reasons"][0].startswith(reason)


@pytest.mark.parametrize("name", ANSWERS)
def test_the_recorded_scores_belong_to_the_rows_of_the_project(name: str) -> None:
    lines = (PROJECTS / name / "data" / "raw" / "alpaca" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    outputs = {json.loads(line)["output"] for line in lines}
    for asset in ASSETS:
        samples = pq.read_table(PROJECTS / name / "recorded" / asset / "samples.parquet").to_pylist()
        assert {sample["reference"] for sample in samples} <= outputs


def test_on_rows_that_are_too_alike_nothing_is_decided(tmp_path: Path) -> None:
    """The same recorded scores: as conversations, most of the rows are one question with other words."""
    name = "gap_of_facts"
    root = scaffold.create(tmp_path / "shop", example=False)
    shutil.rmtree(root / "experiments")
    shutil.copytree(PROJECTS / name, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("recorded"))
    (done,) = ft_here(root, ("run", "--select", LIGHT))
    assert done.returncode == 0, done.stderr[-4000:]
    conversations = current_artifact(ArtifactStore(root / "data" / "store"), "conversations")
    assert conversations is not None
    comparison = compared(name, conversations.path)
    assert comparison.units < comparison.test_rows
    found = recommend(desk_of(comparison, {EXPERIMENT: training_of(name)}, 20))
    assert found["decision"] == "more_data" and "too much alike to decide" in found["reasons"][0], found
    assert found["row"] == ANSWERS[name][1]
