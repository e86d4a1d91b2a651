"""A simpler technique takes the place of the best one only if it is shown to keep most of its lead."""

from pathlib import Path

import numpy as np
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.claim import ShareFacts
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.recommend import recommend
from ft_pipeline_tests.decide.rules import desk_of
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, scored


def case(folder: Path, share: float, count: int, seed: int = 0, **more: object) -> Comparison:
    """A qlora that leads the base model by 1 nat, and a lora that keeps this share of its lead."""
    random = np.random.default_rng(seed)
    hard = random.normal(3, 1, size=count)
    gains = {name: lead + random.normal(0, 1, size=count) / 2 for name, lead in (("best", 1.0), ("simple", share))}
    rows = {"plain": {"kind": "base", "losses": hard.tolist(), "correct": CORRECT}}
    inputs = {"best/prompt_baseline": scored(folder / "base", rows)}
    for name, technique in (("best", "qlora"), ("simple", "lora")):
        row = {"kind": "merged", "losses": (hard - gains[name]).tolist(), "correct": CORRECT, "technique": technique}
        inputs[f"{name}/scores"] = scored(folder / name, {"merged": row})
    bases = {"best/prompt_baseline": "1", "best/scores": "1", "simple/scores": "1"}
    return compare(inputs, CONFIG | {"bases": bases} | more)


def test_a_technique_that_keeps_the_lead_is_chosen_if_it_is_simpler(tmp_path: Path) -> None:
    comparison = case(tmp_path, share=0.97, count=300, seed=1)
    (kept,) = comparison.of_kind("share")
    assert (kept.row, kept.rival) == ("simple/merged", "best/merged")
    assert kept.told(ShareFacts) == ShareFacts(wanted=0.8, baseline="base")
    assert kept.value == pytest.approx(0.97, abs=0.08) and kept.holds
    document = recommend(desk_of(comparison, {}, 50))
    assert (document["decision"], document["row"]) == ("lora", "simple/merged")
    assert f"It keeps {kept.value:.0%} of the lead of best/merged (at least 80% is shown)" in document["reasons"][0]


def test_a_technique_that_is_not_shown_to_keep_it_is_not(tmp_path: Path) -> None:
    """Not clearly worse is not enough: on 50 conversations that says little."""
    comparison = case(tmp_path, share=0.85, count=50, seed=7)
    best, simple = (comparison.row(name) for name in ("best/merged", "simple/merged"))
    assert best and simple and not comparison.better(best, simple)
    assert not comparison.of_kind("share")[0].holds
    assert recommend(desk_of(comparison, {}, 50))["row"] == "best/merged"


def test_a_project_sets_the_share(tmp_path: Path) -> None:
    comparison = case(tmp_path, share=0.7, count=300, seed=2, keeps=0.5)
    (kept,) = comparison.of_kind("share")
    assert kept.told(ShareFacts).wanted == 0.5 and kept.holds


def shown(tmp_path: Path, share: float, count: int, worlds: int) -> float:
    return np.mean(
        [case(tmp_path / f"{count}{seed}", share, count, seed).of_kind("share")[-1].holds for seed in range(worlds)]
    ).item()


MANY = pytest.param(150, marks=pytest.mark.long)


@pytest.mark.parametrize("worlds", [20, MANY])
def test_a_technique_that_keeps_three_fifths_is_rarely_chosen(tmp_path: Path, worlds: int) -> None:
    """The old rule accepted it in 28 % of the cases on 50 conversations."""
    assert shown(tmp_path, 0.6, 50, worlds) <= 0.02


@pytest.mark.parametrize("worlds", [6, MANY])
def test_a_technique_that_keeps_all_is_chosen_with_enough_conversations(tmp_path: Path, worlds: int) -> None:
    assert shown(tmp_path, 1.0, 300, worlds) >= 0.9


def test_without_a_lead_there_is_nothing_to_keep(tmp_path: Path) -> None:
    comparison = case(tmp_path, share=-1.0, count=50)
    (kept,) = comparison.of_kind("share")
    assert kept.row == "simple/merged" and not kept.holds
    assert compare({"best/prompt_baseline": tmp_path / "base"}, CONFIG).of_kind("share") == []
