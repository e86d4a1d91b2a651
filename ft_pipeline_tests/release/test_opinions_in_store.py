"""Decisions by people over a real store: the ledger of tests, records of the champion, and the model card."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.evaluation.comparison.deciding_metric import AUTO
from ft_pipeline.evaluation.opinions.verdict_tables import hash_of_answer
from ft_pipeline.release.card.model_card import CardFacts, render_card
from ft_pipeline.release.manual_promotion import NotPromoted
from ft_pipeline.release.recorded_decision import RecordedDecision, decide_and_record, decision_document
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.evaluation.opined import mixed, rating
from ft_pipeline_tests.release import material as made_up
from ft_pipeline_tests.release.material import READ, Material
from ft_pipeline_tests.test_docs_links import misread_lines

SETTINGS = PromotionSettings()
TRAILS = 3.1
"""A mean loss that is not better than that of the prompt variant, 3.0."""


@pytest.fixture
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Material:
    monkeypatch.setattr(made_up, "HARD", made_up.HARD * 2)  # 60 test conversations
    return Material(tmp_path)


def rated(material: Material, verdicts: list[str]) -> dict[str, Artifact]:
    """Ratings of the tuned model and the prompt variant, as an artifact."""
    draft = material.store.begin(Spec("ratings", {}, {"verdicts": verdicts}))
    pq.write_table(
        pa.Table.from_pylist([_rating(*entry) for entry in enumerate(verdicts)]), draft.out / "ratings.parquet"
    )
    return {"ratings": material.store.commit(draft, {})}


def _rating(number: int, verdict: str) -> dict[str, Any]:
    answers = {"candidate_answer": f"merged says {number}", "rival_answer": f"few_shot says {number}"}
    return rating(number, verdict) | {name: hash_of_answer(text) for name, text in answers.items()}


def decided(material: Material, comparison: Artifact, champion: ChampionRecord | None = None) -> RecordedDecision:
    return decide_and_record(material.store, comparison, SETTINGS, champion, test_share=0.15, read=READ)


def compare(material: Material, scores: Artifact, verdicts: list[str]) -> Artifact:
    return material.compare(scores, opinions=rated(material, verdicts), primary_metric=AUTO)


def looks(material: Material) -> list[list[str]]:
    return [[look.name for look in entry.looks] for entry in exposure_ledger.read_entries(material.store.root)]


def test_people_s_verdicts_are_looks_like_any_other(material: Material) -> None:
    scores = material.train(TRAILS)
    before = decided(material, material.compare(scores, primary_metric=AUTO))
    assert not before.decision.failed["few_shot"] and before.decision.failed["lora/merged"]
    assert looks(material) == [["few_shot", "lora"]]
    decided(material, compare(material, scores, mixed(20, 10)))
    assert len(looks(material)) == 1, "too few ratings decide nothing"
    enough = decided(material, compare(material, scores, mixed(44, 16)))
    assert looks(material)[1:] == [["lora"]]
    [level] = [test.level for test in enough.decision.tests if test.name == "lora/merged"]
    assert level == pytest.approx(0.05 * 2 / 3 / (2 * 3)), "one look before the ratings, and this one"
    decided(material, compare(material, scores, mixed(44, 16)))
    assert len(looks(material)) == 2
    assert enough.decision.name == "lora/merged", "what people chose comes first"


def test_a_record_and_the_card_say_that_people_decided(material: Material) -> None:
    comparison = compare(material, material.train(TRAILS), mixed(46, 14))
    record, _, _ = material.decide_and_promote(comparison, SETTINGS, "lora")
    assert record is not None and record.evidence["decided_by"] == {"few_shot": "people"}
    [opinion] = record.evidence["opinions"]
    assert (opinion["rated"], opinion["may_decide"]) == (60, True)
    document = decision_document(material.store, comparison, SETTINGS, None, test_share=0.0, read=READ)
    assert document["verdict"]["sentence"].startswith(
        "Use the fine-tuned model lora/merged: its answers were preferred in 77 of 100 comparisons with few_shot ("
    )
    facts = CardFacts(
        name="lora/merged",
        row="lora/merged",
        kind="merged",
        task="",
        base_model="tiny",
        hub_id=None,
        license=None,
        row_counts={},
        splits={},
        comparison=decided(material, comparison).case.comparison,
        fingerprints={},
        champion=record.model_dump(),
        decided=document,
    )
    assert misread_lines(render_card(facts).split("---\n", 2)[2]) == []
    card = render_card(facts).replace("\\", "")
    assert "Against few_shot, the decision was that of people, who rated 60 pairs blind." in card
    assert "**Answers can go out**: an answer can go out in 60 of 60 rated pairs" in card


def test_people_stop_a_promotion_by_hand(material: Material) -> None:
    comparison = compare(material, material.train(2.0), mixed(31, 29))
    with pytest.raises(NotPromoted, match="is preferred in 52 of 100 comparisons with few_shot"):
        material.decide_and_promote(comparison, SETTINGS, "lora")
    record, _, _ = material.promote(comparison, SETTINGS, "lora", force=True, reason="we need it")
    assert record is not None and "is preferred in 52 of 100" in record.evidence["lacks"][0]
