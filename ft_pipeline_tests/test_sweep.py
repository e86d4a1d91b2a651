"""Sweep members: the experiments that `seeds` and `learning_curve` of an experiment add."""

from pathlib import Path

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.sweep import is_sweep_member, learning_curve_share, sweep_members, sweep_owner
from ft_pipeline_tests.projects import project_of

SWEEP = "technique: lora\ntraining: {seed: 7}\nseeds: 3\nlearning_curve: [0.5, 0.25]\n"


def test_each_seed_and_share_is_a_separate_experiment(tmp_path: Path) -> None:
    project = project_of(tmp_path, lora=SWEEP, other="technique: lora\nretrain: true\nseeds: 2\n")
    members = ["lora", "lora.at25", "lora.at50", "lora.seed1", "lora.seed2"]
    assert project.experiment_names() == [*members, "other", "other.seed1"]
    assert sorted(project.with_sweep_members("lora")) == members
    assert [project.experiment(name).training.seed for name in members] == [7, 7, 7, 8, 9]
    assert [project.experiment(name).data.share for name in members] == [1, 0.25, 0.5, 1, 1]
    assert project.experiment("other").retrain and not project.experiment("other.seed1").retrain
    assert [name for name, _ in project.training_chain("lora.seed1")] == ["lora.seed1"]


def test_a_sweep_member_differs_only_in_its_seed_or_share() -> None:
    settings = ExperimentSettings.model_validate({"technique": "lora", "seeds": 2, "learning_curve": [0.5]})
    alone = ExperimentSettings.model_validate({"technique": "lora"})
    members = sweep_members("a", settings)
    seed, less = (members[name].model_dump() for name in ("a.seed1", "a.at50"))
    seed["training"]["seed"], less["data"]["share"] = 42, 1.0
    assert seed == less == alone.model_dump()
    assert all(not sweep_members(name, member) for name, member in members.items())


def test_the_name_of_a_sweep_member_gives_owner_and_share() -> None:
    assert [sweep_owner(name) for name in ("lora", "lora.seed1", "my-lora.at50")] == ["lora", "lora", "my-lora"]
    assert [is_sweep_member(name) for name in ("lora", "lora.seed1")] == [False, True]
    assert [learning_curve_share(name) for name in ("lora", "lora.seed1", "lora.at5")] == [None, None, 0.05]


def test_an_invalid_experiment_has_no_sweep_members(tmp_path: Path) -> None:
    project = project_of(tmp_path, lora="technique: magic\nseeds: 3\n")
    assert project.experiment_names() == ["lora"]
    with pytest.raises(UserError, match=r"lora\.yaml: line 1"):
        project.experiment("lora.seed1")


@pytest.mark.parametrize("name", ["lora.seed3", "lora.at75", "lora.seed0", "lora.x", "none.seed1", "lora."])
def test_a_name_outside_the_sweep_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"known: lora, lora\.at25, lora\.at50, lora\.seed1, lora\.seed2"):
        project_of(tmp_path, lora=SWEEP).experiment(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: 0\n", r"line 1: `seeds` is 0"),
        ("learning_curve: [1.0]\n", r"learning_curve contains 1\. Use shares from 0\.01 to 0\.99"),
        ("learning_curve: [0.125]\n", r"learning_curve contains 0\.125\. Use whole percentages, such as 0\.12"),
        ("learning_curve: [0.5, 0.5]\n", "contains 0.5 twice"),
        ("objective: cpt\nlearning_curve: [0.5]\n", "Remove `learning_curve`, or set `objective: sft`"),
        ("objective: cpt\ndata: {share: 0.5}\n", r"Remove `data\.share`"),
    ],
)
def test_an_invalid_sweep_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        project_of(tmp_path, a=text).experiment("a")
