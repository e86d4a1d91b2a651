"""A champion that learned from rows which are test rows now: named, not compared, and not replaced by a worse model."""

import html
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.released import Candidate
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.result_records import ContaminatedModel, LeftOut
from ft_pipeline.release.looks import decided_by
from ft_pipeline.release.manual_promotion import promote
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline_tests.decide.claims import with_rows
from ft_pipeline_tests.decide.rules import champion_record, decide
from ft_pipeline_tests.evaluation.moving_rows import Moving, load_steps
from ft_pipeline_tests.release.test_promotion import comparison

SETTINGS = PromotionSettings(metric="loss", forgetting_margin=0.05, min_test_rows=20)
LOSSES = {"plain": 3.5, "new/merged": 2.5}
CHAMPION = champion_record("old/merged", "old", "f" * 64)


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moving:
    load_steps(monkeypatch)
    return Moving(tmp_path, "old", "new")


def released(moving: Moving) -> Artifact:
    """Release `old`, then move rows into the test split and train `new`; returns the new conversations."""
    moving.experiment("old", moving.conversations(), level=0.5)
    moving.release("old")
    large = moving.conversations(test_share=0.3)
    moving.experiment("new", large)
    return large


def test_a_contaminated_champion_is_not_scored_and_not_replaced_before_it_is_trained_again(moving: Moving) -> None:
    released(moving)
    made = moving.run("comparison")
    assert not [name for name in made.inputs if name.startswith("champion/")]
    compared = read_comparison(made)
    assert [entry.model for entry in compared.contaminated] == ["old", "champion"]
    assert {row.kind for row in compared.rows} == {"base", "adapter", "merged"}
    assert compared.champion is not None and sorted(compared.champion) == ["experiment", "fingerprint", "name"]
    moving.run("decision")
    champion = moving.run("champion").summary
    check = champion["checks"]["moved"]
    assert (champion["champion"]["name"], check["passed"], check["blocking"]) == ("old/merged", False, False)
    assert "the champion's experiment old must be trained and scored again first" in check["message"]
    rows = compared.contaminated[1].rows
    assert (
        f"the champion old/merged is not compared: it learned from {rows} rows that are test rows now"
        in check["message"]
    )
    assert "Train it again with `ft run --experiment old`." in check["message"]
    moving.run("recommendation")
    page = html.unescape((moving.run("report").path / "report.html").read_text(encoding="utf-8"))
    for entry in compared.contaminated:
        assert f"Not compared: {entry.describe()}" in page


def test_the_champion_trained_again_stands_in_its_place(moving: Moving) -> None:
    large = released(moving)
    moving.experiment("old", large, level=0.9)
    moving.run("comparison")
    moving.run("decision")
    made = moving.run("champion")
    record = made.summary["champion"]
    assert (record["name"], record["previous"]) == ("old/merged", "old/merged")
    assert record["fingerprint"] == moving.current("merged_model", "old").fingerprint
    assert "old/merged beats base by " in record["reason"]
    assert "the previous champion old/merged is not compared: it learned from" in record["reason"]
    assert made.summary["checks"]["moved"]["passed"]
    (entry,) = moving.compare().contaminated  # the same decision again: still about the champion before it
    assert (entry.model, entry.fix) == ("champion", "A candidate that passes the rules takes its place.")


def test_a_clean_champion_is_scored_again_and_compared(moving: Moving) -> None:
    moving.experiment("old", moving.conversations(test_share=0.3), level=0.5)
    moving.release("old")
    moving.experiment("new", moving.conversations(test_share=0.1))
    made = moving.run("comparison")
    assert made.inputs["champion/scores"]
    compared = read_comparison(made)
    assert not compared.contaminated
    assert "champion" in {row.kind for row in compared.rows}


def test_a_contaminated_model_is_not_promoted_by_hand(moving: Moving) -> None:
    released(moving)
    made = moving.run("comparison")
    moving.run("decision")
    how: dict[str, Any] = {"read": decided_by(moving.project.settings), "force": True, "two_people": False}
    for name in ("old", "old/adapter"):
        with pytest.raises(UserError, match=r"old learned from .* Train it again"):
            promote(moving.store, made, name, reason="I like it", **how)
    record, _, _ = promote(moving.store, made, "new", reason="it is clean", **how)
    assert record and record.evidence["lacks"] == [
        "the champion's experiment old must be trained and scored again first"
    ]


def contaminated(losses: dict[str, float], *models: str) -> Comparison:
    """A comparison whose champion is contaminated, as are the models."""
    kinds = {name: name.partition("/")[2] or "base" for name in losses}
    measured = comparison(losses, kinds)  # type: ignore[arg-type]
    of_experiments = {name: {"experiment": name.partition("/")[0]} for name in losses}
    entries = [
        ContaminatedModel(
            model=model, rows=12, first=["alpaca/a.jsonl:3"], because="learned from 12 rows", fix="Train it again."
        )
        for model in (*models, "champion")
    ]
    measured = with_rows(measured, **of_experiments)
    return measured.changed(contaminated=entries, champion={"fingerprint": CHAMPION.fingerprint})


def candidates(*names: str) -> dict[str, Candidate]:
    return {
        name: Candidate(name=name, kind="merged", experiment=name.partition("/")[0], fingerprint=name * 8)
        for name in names
    }


def test_a_candidate_must_beat_the_champion_that_was_trained_again() -> None:
    both = candidates("old/merged", "new/merged")
    near = decide(contaminated({**LOSSES, "old/merged": 2.55}), both, SETTINGS, CHAMPION)
    assert (near.move, near.name) == (True, "old/merged")
    assert near.reasons[0].startswith("new/merged: champion: leads old/merged on loss by 0.050")
    clear = decide(contaminated({**LOSSES, "old/merged": 2.9}), both, SETTINGS, CHAMPION)
    assert (clear.move, clear.name) == (True, "new/merged")
    assert clear.reasons == [
        "new/merged beats plain by 1.000 (95 %: 0.900 to 1.100), old/merged, the champion trained again, by 0.400 "
        "(95 %: 0.300 to 0.500) on loss; one training: this speaks for these weights, not for the recipe; the previous "
        "champion old/merged is not compared: it learned from 12 rows"
    ]


def test_any_form_of_the_champion_trained_again_takes_its_place() -> None:
    released_adapter = CHAMPION.model_copy(update={"kind": "adapter", "name": "old/adapter"})
    losses = {"plain": 3.5, "old/adapter": 2.0, "old/merged": 2.05, "new/merged": 1.95}
    both = candidates("old/merged", "new/merged")
    decision = decide(contaminated(losses), both, SETTINGS, released_adapter)
    assert (decision.move, decision.name) == (True, "old/merged")
    assert "champion: leads old/adapter on loss by 0.050" in decision.reasons[0]
    without_adapter = {name: loss for name, loss in losses.items() if name != "old/adapter"}
    decision = decide(contaminated(without_adapter), candidates("new/merged"), SETTINGS, released_adapter)
    assert "champion: leads old/merged on loss by 0.100" in decision.reasons[0]


def test_a_champion_whose_experiment_was_scored_in_another_evaluation_stays() -> None:
    elsewhere = contaminated(LOSSES).changed(
        left_out=[LeftOut(name="old/merged", experiment="old", fingerprint="g" * 64, differs_in=["generation"])]
    )
    decision = decide(elsewhere, candidates("new/merged"), SETTINGS, CHAMPION)
    assert not decision.move
    assert decision.reasons[0] == "new/merged: the champion's experiment old must be trained and scored again first"


def test_a_champion_whose_experiment_is_gone_is_replaced_by_a_model_that_beats_the_baselines() -> None:
    move = decide(contaminated(LOSSES), candidates("new/merged"), SETTINGS, CHAMPION)
    assert move.move
    assert move.reasons == [
        "new/merged beats plain by 1.000 (95 %: 0.900 to 1.100) on loss; one training: this speaks for these weights, "
        "not for the recipe; the previous champion old/merged is not "
        "compared: it learned from 12 rows"
    ]
    worse = decide(contaminated({"plain": 3.5, "new/merged": 3.45}), candidates("new/merged"), SETTINGS, CHAMPION)
    assert not worse.move
    assert worse.reasons[-1] == "the champion old/merged is not compared: it learned from 12 rows. Train it again."


def test_another_champion_since_the_comparison_must_be_compared_first() -> None:
    moved = CHAMPION.model_copy(update={"fingerprint": "g" * 64, "name": "third/merged", "experiment": "third"})
    decision = decide(contaminated(LOSSES), candidates("new/merged"), SETTINGS, moved)
    assert not decision.move
    assert decision.reasons == ["new/merged: the champion third/merged has no score in this comparison: run `ft run`"]
