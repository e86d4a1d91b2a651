"""Decisions over a real store: what the ledger of looks records, and that it counts each look once."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.audit.champion_records import check_exposures
from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.exposure_ledger import Entry, Look
from ft_pipeline.decide.looks import rows_before
from ft_pipeline.decide.promote import decide
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.decide.ruling import Ruling, ruling_of
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.release.case import lead_on, read_samples, weights_of
from ft_pipeline.release.looks import ids_of_test_rows, write_looks_at_scores
from ft_pipeline.release.recorded_decision import RecordedDecision, decide_and_record
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.ledger import Ledger
from ft_pipeline_tests.release.material import READ, Material
from ft_pipeline_tests.release.test_exposure import look_at

SETTINGS = PromotionSettings(min_test_rows=20)


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return Material(tmp_path)


def decided(material: Material, comparison: Artifact, champion: ChampionRecord | None = None) -> RecordedDecision:
    return decide_and_record(material.store, comparison, SETTINGS, champion, test_share=0.15, read=READ)


def entries(material: Material) -> list[Entry]:
    return exposure_ledger.read_entries(material.store.root)


def level(recorded: RecordedDecision, name: str) -> float:
    return next(test.level for test in recorded.decision.tests if test.name == name)


def test_what_a_comparison_shows_is_recorded_with_its_rows_and_settings(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    recorded = decided(material, comparison)
    assert recorded.decision.name == "lora/merged" and recorded.entry == 1
    [first] = entries(material)
    assert [(look.name, look.is_tuned) for look in first.looks] == [("lora", True), ("few_shot", False)]
    assert (level(recorded, "lora/merged"), level(recorded, "few_shot")) == pytest.approx((0.05 / 3, 0.05 / 6))
    assert first.ids == set(ids_of_test_rows(comparison)) and first.settings == READ


def test_the_same_decision_again_is_the_same_and_counts_once(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    first, again = decided(material, comparison), decided(material, comparison)
    assert len(entries(material)) == 1
    assert again.decision == first.decision and again.verdict == first.verdict


def test_scores_that_nobody_decided_on_make_the_next_test_stricter(material: Material) -> None:
    """As with `ft run --select scores`, or `ft compare`, again and again."""
    for loss in (2.3, 2.2, 2.1):
        write_looks_at_scores(material.store, material.train(loss), "lora", READ)
    write_looks_at_scores(material.store, material.baseline, "lora", READ)
    recorded = decided(material, material.compare(material.train(2.0)))
    assert level(recorded, "lora/merged") == pytest.approx(0.05 * 2 / 3 / (4 * 5))
    assert level(recorded, "few_shot") == pytest.approx(0.05 / 6), "prompts are counted apart"
    assert [bool(entry.compared) for entry in entries(material)] == [False] * 4 + [True]


def test_a_candidate_that_was_compared_before_is_no_new_look(material: Material) -> None:
    """Another comparison of the same models, as when a price changes: same candidates and rows."""
    scores = material.train(2.0)
    first = decided(material, material.compare(scores))
    other = decided(material, material.compare(scores, None))
    assert level(other, "lora/merged") == level(first, "lora/merged") and len(entries(material)) == 1
    retrained = decided(material, material.compare(material.train(2.02, label="new data")))
    assert level(retrained, "lora/merged") == pytest.approx(0.05 * 2 / 3 / (2 * 3))  # one earlier look, one new one


def test_another_process_that_writes_at_the_same_time_loses_no_look(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the number between the reading of the ledger and the writing of the entry."""
    comparison = material.compare(material.train(2.0))
    append, meanwhile = Ledger.append, [1, 2]

    def append_later(ledger: Ledger, record: dict) -> object:
        if meanwhile and "compared" in record:
            look_at(material.store.root, meanwhile.pop())
        return append(ledger, record)

    monkeypatch.setattr(Ledger, "append", append_later)
    recorded = decided(material, comparison)
    assert len(entries(material)) == 3 and recorded.entry == 3
    assert [entry.compared for entry in entries(material)][:2] == ["key1", "key2"]
    assert recorded.decision.move


def test_settings_that_were_changed_after_a_look_make_it_another_one_and_are_named(material: Material) -> None:
    scores = material.train(2.0)
    write_looks_at_scores(material.store, scores, "lora", {**READ, "promotion.forgetting_margin": 0.01})
    recorded = decided(material, material.compare(scores))
    assert level(recorded, "lora/merged") == pytest.approx(0.05 * 2 / 3 / (2 * 3))
    assert recorded.verdict is not None
    assert "promotion.forgetting_margin was 0.01 when these models were first looked at." in recorded.verdict.basis


@pytest.mark.parametrize("order", list(permutations([2.2, 2.1, 2.0])))
def test_the_order_of_looks_before_a_comparison_changes_no_verdict(
    material: Material, order: tuple[float, ...]
) -> None:
    scored = {loss: material.train(loss) for loss in (2.2, 2.1, 2.0)}
    for loss in order:
        write_looks_at_scores(material.store, scored[loss], "lora", READ)
    recorded = decided(material, material.compare(scored[2.0]))
    assert level(recorded, "lora/merged") == pytest.approx(0.05 * 2 / 3 / (3 * 4))
    assert recorded.decision.name == "lora/merged"


def test_settings_that_appear_after_a_decision_are_marked(material: Material) -> None:
    first = decided(material, material.compare(material.train(2.0)))
    assert first.case.looks == {}
    later = decided(material, material.compare(material.train(2.1)))  # its adapter has another config
    assert later.case.looks == {"lora/merged": 1, "lora/adapter": 1}


def test_a_promotion_by_hand_records_the_same_looks(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    record, _, _ = material.decide_and_promote(comparison, SETTINGS, "lora")
    assert [[look.name for look in entry.looks] for entry in entries(material)] == [["lora", "few_shot"]]
    assert record and record.by_hand and record.evidence["exposure"] == 1


def test_the_two_forms_of_a_training_are_one_look(material: Material) -> None:
    """`ft promote lora/adapter` after the run has decided about the merged model: nearly the same weights."""
    comparison = material.compare(material.train(2.0))
    decided(material, comparison)
    material.decide_and_promote(comparison, SETTINGS, "lora/adapter")
    assert len(entries(material)) == 1


def test_a_damaged_ledger_stops_the_decision(material: Material) -> None:
    decided(material, material.compare(material.train(2.0)))
    decided(material, material.compare(material.train(2.1)))
    exposure_ledger.ledger(material.store.root).path(1).unlink()
    with pytest.raises(UserError, match="The ledger of looks is damaged: exposures/000001"):
        decided(material, material.compare(material.train(2.2)))
    assert [str(finding) for finding in check_exposures(ArtifactIndex(material.store.root)).findings]


def test_an_entry_that_a_decision_names_is_missed_by_the_audit(material: Material) -> None:
    """The last entry and its result are removed together: only the decision's artifact still knows of it."""
    comparison = material.compare(material.train(2.0))
    decided(material, comparison)
    material.put("decision", {"comparison": comparison}, "decided", {"exposure": {"entry": 1}})
    assert check_exposures(ArtifactIndex(material.store.root))[1:] == (1, [])
    for path in (material.store.root / "exposures").glob("000001.*"):
        path.unlink()
    _, count, [finding] = check_exposures(ArtifactIndex(material.store.root))
    assert count == 0 and finding.where == "exposures/000001.json"


def test_the_ids_of_a_comparison_are_those_of_its_test_rows(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    groups = pq.read_table(comparison.path / "samples.parquet").column("group").to_pylist()
    assert ids_of_test_rows(comparison) == sorted(set(groups))


def test_what_is_fresh_depends_on_when_the_settings_appeared() -> None:
    entries = [
        Entry(1, [Look("a", "", "a")], "key1", {}, "1", {"r1", "r2"}),
        Entry(2, [Look("b", "", "b")], "key2", {}, "2", {"r1", "r2", "r3"}),
    ]
    assert rows_before(entries, "a") == {"r1", "r2"}
    assert rows_before(entries, "b") == rows_before(entries, "new") == {"r1", "r2", "r3"}


def test_rows_on_which_two_models_differ_more_say_more(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    weights = weights_of(read_samples(comparison), read_comparison(comparison), "lora/merged", "few_shot")
    assert sorted(weights) == ids_of_test_rows(comparison) and len(set(weights.values())) > 1
    same = weights_of(read_samples(comparison), read_comparison(comparison), "few_shot", "few_shot")
    assert set(same.values()) == {0.0}


def test_a_lead_on_some_rows_alone_is_that_of_these_rows(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    document = read_comparison(comparison)
    ids, samples = ids_of_test_rows(comparison), read_samples(comparison)
    whole = lead_on(samples, document, set(ids), "lora/merged", "few_shot")
    paired = document.lead_over(*(document.row(name) for name in ("lora/merged", "few_shot")))  # type: ignore[arg-type]
    assert whole is not None and paired is not None
    assert (whole.value, whole.low, whole.high) == pytest.approx((paired.value, paired.low, paired.high))
    part = lead_on(samples, document, set(ids[:7]), "lora/merged", "few_shot")
    assert part is not None and part.value != pytest.approx(whole.value)
    assert lead_on(samples, document, {"another"}, "lora/merged", "few_shot") is None


def test_a_candidate_that_is_behind_on_fresh_rows_is_blocked(material: Material) -> None:
    court = decided(material, material.compare(material.train(2.0))).court

    def ruled(lead: Score) -> Ruling:
        asked = replace(court, exposure=Exposure(fresh_leads={"lora/merged": {"few_shot": lead}}))
        return ruling_of(asked, decide(asked))

    behind = ruled(Score(-0.2, -0.3, -0.1))
    assert behind.name != "lora/merged"
    assert (
        "lora/merged: trails few_shot on the test conversations that arrived after it was designed: by 0.2000 (95 %: "
        "0.1000 to 0.3000)" in behind.reasons[0]
    )
    assert ruled(Score(-0.2, -0.5, 0.1)).name == "lora/merged", "it is uncertain"
