"""Decisions over a real store: what the ledger of tests records, and that it counts each test once."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.audit.artifact_index import ArtifactIndex
from ft_pipeline.audit.champion_records import check_exposures
from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.release.candidates import find_candidates
from ft_pipeline.release.champion import history
from ft_pipeline.release.fresh_leads import fresh_rows, lead_on
from ft_pipeline.release.manual_promotion import promote
from ft_pipeline.release.recorded_decision import RecordedDecision, decide_and_record, ids_of_test_rows
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline_tests.release.material import Material
from ft_pipeline_tests.release.test_exposure import entry
from ft_pipeline_tests.version1.convert import as_version_1
from ft_pipeline_tests.version1.rules import decide

SETTINGS = PromotionSettings(min_test_rows=20)


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return Material(tmp_path)


def decided(material: Material, comparison: Artifact, champion: ChampionRecord | None = None) -> RecordedDecision:
    return decide_and_record(material.store, comparison, SETTINGS, champion, test_share=0.15)


def entries(material: Material) -> list[dict]:
    return exposure_ledger.ledger(material.store.root).read()


def test_each_test_is_recorded_with_its_rows_and_its_result(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    recorded = decided(material, comparison)
    assert recorded.decision.name == "lora/merged" and recorded.entry == 1
    [first] = entries(material)
    assert [test["name"] for test in first["candidates"]] == ["lora/merged", "few_shot"]
    assert {test["level"] for test in first["candidates"]} == {0.05 / 3}
    assert (first["conversations"], first["metric"], first["e_before"]) == (30, "loss", 0.0)
    folder = material.store.root / "exposures"
    ids = (folder / "rows" / f"{first['rows']}.txt").read_text(encoding="utf-8").split()
    assert ids == ids_of_test_rows(comparison)
    result = json.loads((folder / "000001.result.json").read_text(encoding="utf-8"))
    assert result["moved"] == "lora/merged" and result["results"]["lora/merged"]["p"] < 0.001


def test_the_same_decision_again_is_the_same_and_counts_once(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    first, again = decided(material, comparison), decided(material, comparison)
    assert len(entries(material)) == 1
    assert [(test.p, test.level) for test in again.decision.tests] == [
        (test.p, test.level) for test in first.decision.tests
    ]
    assert again.decision.reasons == first.decision.reasons and again.exposure.count == 0.0


def test_a_process_that_was_killed_before_its_result_counts_once(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    decided(material, comparison)
    result = material.store.root / "exposures" / "000001.result.json"
    result.unlink()
    assert decided(material, comparison).decision.move
    assert result.is_file() and len(entries(material)) == 1


def test_a_candidate_that_was_tested_before_is_not_tested_anew(material: Material) -> None:
    """Another comparison of the same models, as when a price changes: same candidates, rivals and rows."""
    scores = material.train(2.0)
    decided(material, material.compare(scores))
    other = material.compare(scores, None)
    assert not any(test.is_new for test in decided(material, other).decision.tests)
    retrained = decided(material, material.compare(material.train(2.02, label="new data")))
    assert [test.name for test in retrained.decision.tests if test.is_new] == ["lora/merged"]
    assert retrained.exposure.count == 2.0
    [test] = [test for test in retrained.decision.tests if test.is_new]
    assert test.level == 0.05 / (3 * 4)  # two earlier tests, one new one
    assert [entry["e_before"] for entry in entries(material)] == [0.0, 2.0]


def test_a_decision_that_did_not_know_another_test_is_made_again(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process records a test between the reading of the ledger and the writing of the entry."""
    comparison = material.compare(material.train(2.0))
    write, meanwhile = exposure_ledger.write_entry, [entry(1), entry(2)]

    def write_later(store: Path, own: exposure_ledger.NewEntry, number: int | None = None) -> int | None:
        if meanwhile:
            write(store, meanwhile.pop())
        return write(store, own, number)

    monkeypatch.setattr(exposure_ledger, "write_entry", write_later)
    recorded = decided(material, comparison)
    assert [found["comparison"] for found in entries(material)][:2] == ["comparison2", "comparison1"]
    assert len(entries(material)) == 3 and recorded.entry == 3
    assert recorded.decision.move


def test_settings_that_appear_after_a_decision_are_marked(material: Material) -> None:
    first = decided(material, material.compare(material.train(2.0)))
    assert first.looks == {}
    later = decided(material, material.compare(material.train(2.1)))  # its adapter has another config
    assert later.looks == {"lora/merged": 1, "lora/adapter": 1}


def test_a_promotion_by_hand_is_a_test_too(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    record, _, _ = promote(material.store, comparison, SETTINGS, "lora", force=False, reason="")
    assert [[test["name"] for test in found["candidates"]] for found in entries(material)] == [
        ["lora/merged", "few_shot"]  # whoever asks for one has seen all in the comparison
    ]
    assert (
        record
        and record.by_hand
        and decided(material, comparison, history(material.store.root)[-1]).exposure.count == 2.0
    )


def test_a_form_that_no_run_examines_is_a_test_of_its_own(material: Material) -> None:
    """`ft promote lora/adapter` after the run has tested the merged model: nearly the same weights, once more."""
    comparison = material.compare(material.train(2.0))
    decided(material, comparison)
    promote(material.store, comparison, SETTINGS, "lora/adapter", force=False, reason="")
    tested = [[(test["name"], test["level"]) for test in found["candidates"]] for found in entries(material)]
    assert tested[1] == [("lora/adapter", 0.05 / (3 * 4))]


def test_a_damaged_ledger_stops_the_decision(material: Material) -> None:
    decided(material, material.compare(material.train(2.0)))
    decided(material, material.compare(material.train(2.1)))
    exposure_ledger.ledger(material.store.root).path(1).unlink()
    with pytest.raises(UserError, match="The ledger of tests is damaged: exposures/000001"):
        decided(material, material.compare(material.train(2.2)))
    assert [str(finding) for finding in check_exposures(ArtifactIndex(material.store.root))[1]]


def test_an_entry_that_a_decision_names_is_missed_by_the_audit(material: Material) -> None:
    """The last entry and its result are removed together: only the decision's artifact still knows of it."""
    comparison = material.compare(material.train(2.0))
    decided(material, comparison)
    material.put("decision", {"comparison": comparison}, "decided", {"exposure": {"entry": 1}})
    assert check_exposures(ArtifactIndex(material.store.root)) == (1, [])
    for path in (material.store.root / "exposures").glob("000001.*"):
        path.unlink()
    count, [finding] = check_exposures(ArtifactIndex(material.store.root))
    assert count == 0 and finding.where == "exposures/000001.json"


def test_the_ids_of_a_comparison_are_those_of_its_test_rows(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    groups = pq.read_table(comparison.path / "samples.parquet").column("group").to_pylist()
    assert ids_of_test_rows(comparison) == sorted(set(groups))


def test_what_is_fresh_depends_on_when_the_settings_appeared() -> None:
    entries = [{"contenders": ["a"], "rows": "1"}, {"contenders": ["a", "b"], "rows": "2"}]
    rows = {"1": {"r1", "r2"}, "2": {"r1", "r2", "r3"}}
    now = ["r1", "r2", "r3", "r4"]
    assert fresh_rows(now, entries, rows, "a") == {"r3", "r4"}
    assert fresh_rows(now, entries, rows, "b") == fresh_rows(now, entries, rows, "new") == {"r4"}


def test_a_lead_on_some_rows_alone_is_that_of_these_rows(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    document = read_comparison(comparison)
    ids = ids_of_test_rows(comparison)
    whole = lead_on(comparison, document, set(ids), "lora/merged", "few_shot")
    paired = document.lead_over(*(document.row(name) for name in ("lora/merged", "few_shot")))  # type: ignore[arg-type]
    assert whole is not None and paired is not None
    assert (whole.value, whole.low, whole.high) == pytest.approx((paired.value, paired.low, paired.high))
    part = lead_on(comparison, document, set(ids[:7]), "lora/merged", "few_shot")
    assert part is not None and part.value != pytest.approx(whole.value)
    assert lead_on(comparison, document, {"another"}, "lora/merged", "few_shot") is None


def test_a_candidate_that_is_behind_on_fresh_rows_is_blocked(material: Material) -> None:
    comparison = as_version_1(read_comparison(material.compare(material.train(2.0))))
    candidates, _ = find_candidates(material.store.all("comparison")[-1], material.store)
    behind = Exposure(fresh_leads={"lora/merged": {"few_shot": Score(-0.2, -0.3, -0.1)}})
    decision = decide(comparison, candidates, SETTINGS, None, exposure=behind)
    assert decision.name != "lora/merged"
    assert (
        "lora/merged: trails few_shot on the test conversations that arrived after it was designed: by 0.2000 (95 %: "
        "0.1000 to 0.3000)" in decision.reasons[0]
    )
    uncertain = Exposure(fresh_leads={"lora/merged": {"few_shot": Score(-0.2, -0.5, 0.1)}})
    assert decide(comparison, candidates, SETTINGS, None, exposure=uncertain).name == "lora/merged"
