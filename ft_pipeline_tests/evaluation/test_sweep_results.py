"""Other seeds and shares of the rows, in a comparison: no rows of their own, and what they show."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.plots import learning_curve_picture
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline_tests.decide.rules import desk_of
from ft_pipeline_tests.evaluation.scored import CONFIG, PARTS
from ft_pipeline_tests.evaluation.sweeps import case, compared, tuned


def advice(comparison: Comparison, rows: int = 800) -> dict[str, Any]:
    return recommend(desk_of(comparison, {"lora": {"train_rows": rows}}, 20))


def test_the_spread_of_seeds_is_listed_separately_from_the_rows(tmp_path: Path) -> None:
    comparison = compared(tmp_path, lora=1.2, lora_seed1=1.0, lora_seed2=1.5)
    assert [row.name for row in comparison.rows] == ["lora/adapter", "lora/merged", "few_shot", "base"]
    assert not any("seed" in claim.row + claim.rival for claim in comparison.claims)
    spread = {entry.row: entry for entry in comparison.seeds}
    assert set(spread) == {"lora/adapter", "lora/merged"}
    own = comparison.rows[0].scores["loss"].value
    loss = spread["lora/merged"].scores["loss"]
    assert spread["lora/merged"].trainings == 3
    assert loss.values == pytest.approx([own, own - 0.2, own + 0.3])
    assert (loss.mean, loss.min, loss.max) == pytest.approx((own + 0.1 / 3, own - 0.2, own + 0.3))
    assert comparison.learning_curves == []
    table = comparison_markdown(comparison)
    assert "Variation between seeds" in table and "Learning curve" not in table
    assert "seed" not in comparison_markdown(compared(tmp_path / "alone", lora=1.2)).lower()


@pytest.mark.usefixtures("rendered")
def test_data_shares_give_a_learning_curve(tmp_path: Path) -> None:
    comparison = compared(tmp_path, lora=1.2, lora_at25=2.2, lora_at50=1.6)
    assert [row.name for row in comparison.rows] == ["lora/adapter", "lora/merged", "few_shot", "base"]
    curve = next(curve for curve in comparison.learning_curves if curve.row == "lora/adapter")
    assert [(point.share, point.rows) for point in curve.points] == [(0.25, 200), (0.5, 400), (1.0, 800)]
    values = [point.scores["loss"].value for point in curve.points]
    assert [values[0] - values[2], values[1] - values[2]] == pytest.approx([1.0, 0.4])
    assert curve.last_step.difference == pytest.approx(0.4) and curve.rises
    assert comparison.seeds == []
    table = comparison_markdown(comparison)
    assert "| lora/adapter | 25% | 200 |" in table and "the gain from the last step is +0.400" in table
    png = learning_curve_picture(comparison)
    assert png is not None and png.startswith(b"\x89PNG")
    assert learning_curve_picture(compared(tmp_path / "alone", lora=1.2)) is None


def test_only_the_answers_of_rows_are_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    build_comparison(case(tmp_path, lora=1.2, lora_seed1=1.0), CONFIG, tmp_path / "out")
    kept = set(pq.read_table(tmp_path / "out" / "samples.parquet")["name"].to_pylist())
    assert kept == {"base", "few_shot", "lora/adapter", "lora/merged"}


def test_sweep_members_with_other_scoring_or_training_are_left_out(tmp_path: Path) -> None:
    inputs = case(tmp_path, lora=1.2)
    inputs["lora.seed1/scores"] = tuned(tmp_path / "old", 1.0, parts={**PARTS, "test_rows": "older"})
    comparison = compare(inputs, {**CONFIG, "stale": ["lora.seed2"]})
    assert comparison.seeds == []
    left_out = {entry.name: entry.differs_in for entry in comparison.left_out}
    assert left_out["lora.seed1/merged"] == ["test_rows"] and left_out["lora.seed2"] == ["training"]


def test_the_worst_seed_is_compared_with_the_best_prompt(tmp_path: Path) -> None:
    good = advice(compared(tmp_path / "good", lora=1.2, lora_seed1=1.3))
    assert good["decision"] == "lora" and good["evidence"]["seeds"]["max"] > good["evidence"]["seeds"]["min"]
    assert any("The worst of them is still better than the prompt variant few_shot" in each for each in good["reasons"])
    luck = advice(compared(tmp_path / "luck", lora=1.2, lora_seed1=1.9))
    assert any("The worst of them is not better than the prompt variant few_shot" in each for each in luck["reasons"])


def test_a_rising_curve_recommends_more_data_if_one_step_would_suffice(tmp_path: Path) -> None:
    near = advice(compared(tmp_path / "near", lora=1.9, lora_at50=2.2))
    assert near["decision"] == "more_data"
    assert "one more step like the last would close the gap (trained on 800 rows)." in near["reasons"][0]
    far = advice(compared(tmp_path / "far", lora=2.2, lora_at50=2.3))
    assert far["decision"] == "prompt"
    assert any(each.startswith("More rows still help: lora/adapter, loss: ") for each in far["reasons"])
    assert far["evidence"]["learning_curve"]["difference"] == pytest.approx(0.1)


def test_a_flat_curve_does_not_recommend_more_data(tmp_path: Path) -> None:
    rows = {"lora": 60, "lora.at50": 30}
    flat = advice(compared(tmp_path / "flat", rows, prompted=2.5, lora=2.5, lora_at50=2.5), 60)
    assert flat["decision"] == "prompt"
    assert any("curve is flat" in each for each in flat["reasons"])
    unknown = advice(compared(tmp_path / "unknown", {"lora": 60}, prompted=2.5, lora=2.5), 60)
    assert unknown["decision"] == "prompt"
    assert not any("more rows" in each.lower() for each in unknown["reasons"]), "without a curve, nothing shows it"


def test_a_gain_that_may_be_chance_is_not_a_flat_curve(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"lora": 300, "lora.at50": 150}, prompted=2.5, lora=2.5, lora_at50=2.6)
    unclear_step = {"difference": 0.1, "low": -0.05, "high": 0.25}
    curves = [
        curve.model_copy(update={"last_step": curve.last_step.model_copy(update=unclear_step)})
        for curve in comparison.learning_curves
    ]
    unclear = advice(comparison.changed(learning_curves=curves), 300)
    assert any("does not show yet whether more rows would help" in each for each in unclear["reasons"])
