"""A project that Dagster really ran, backed up and restored, and its store pulled by a colleague."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline import scaffold
from ft_pipeline_tests.end_to_end.project import Finished, ft_in_turn

pytestmark = [pytest.mark.slow, pytest.mark.long]


def answers(root: Path) -> tuple[list[Any], Any]:
    """The plan, and what `ft audit --verify` counted."""
    (code, plan), (verified, audit) = ft_in_turn(
        root, ("run", "--experiment", "qlora", "--plan"), ("audit", "--verify")
    )
    assert (code, verified) == (0, 0)
    return plan["plan"], {"problems": audit["problems"], "counted": audit["counted"]}


def test_a_restored_project_plans_and_verifies_as_before(finished: Finished, tmp_path: Path) -> None:
    backup = str(tmp_path / "backup")
    ((code, document),) = ft_in_turn(finished.root, ("backup", backup))
    assert code == 0 and document["notes"] == []
    before = answers(finished.root)
    assert before[1]["counted"]["events_of_Dagster"] > 20 and not any(step["runs"] for step in before[0])
    ((code, _),) = ft_in_turn(finished.root, ("restore", backup, str(tmp_path / "shop")))
    assert code == 0 and answers(tmp_path / "shop") == before


def test_a_colleague_who_pulls_the_store_trains_nothing_again(finished: Finished, tmp_path: Path) -> None:
    disk, there = str(tmp_path / "disk"), tmp_path / "there"
    ((code, _),) = ft_in_turn(finished.root, ("store", "push", disk, "--yes"))
    assert code == 0
    scaffold.create(there, example=True)  # a checkout of the project's own files
    for name in ("project.yaml", "experiments", "data/raw", "data/general"):
        shutil.rmtree(there / name) if (there / name).is_dir() else (there / name).unlink()
        copy = shutil.copytree if (finished.root / name).is_dir() else shutil.copyfile
        copy(finished.root / name, there / name)
    shutil.copytree(finished.root / "models", there / "models")  # the base model is a folder of the project
    commands = (("store", "pull", disk), ("run", "--experiment", "qlora"), ("audit", "--verify"))
    (pulled, _), (ran, outcome), (verified, audit) = ft_in_turn(there, *commands)
    assert (pulled, ran, verified) == (0, 0, 0) and audit["problems"] == []
    trained = [step for step in outcome["steps"] if step["asset"] in ("adapter", "merged_model", "scores")]
    assert trained and {step["state"] for step in trained} == {"reused"}
