"""`ft promote` and `ft rollback` over a real store: the rules hold for whoever calls, and a person's word stands."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.exposure_ledger import EVIDENCE_KEY
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.decide.requirements import Requirements
from ft_pipeline.decide.ruling import ruling_about
from ft_pipeline.errors import UserError
from ft_pipeline.release import champion
from ft_pipeline.release.candidates import decision_key_of, find_candidates, released_row
from ft_pipeline.release.champion import current, history, manually_rejected
from ft_pipeline.release.manual_promotion import NotDecided, NotPromoted, rollback
from ft_pipeline.release.recorded_decision import RecordedDecision, decide_and_record
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.release.material import READ, Material
from ft_pipeline_tests.release.racing import promote_at_once

SETTINGS = PromotionSettings(metric="loss", forgetting_margin=0.05, min_test_rows=20)


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return Material(tmp_path)


def by_hand(
    material: Material, comparison: Artifact, name: str, *, force: bool = False, reason: str = ""
) -> tuple[ChampionRecord, bool]:
    record, is_new, request = material.decide_and_promote(comparison, SETTINGS, name, force=force, reason=reason)
    assert record is not None and request is None
    return record, is_new


def decided(material: Material, comparison: Artifact, standing: ChampionRecord | None) -> RecordedDecision:
    return decide_and_record(material.store, comparison, SETTINGS, standing, test_share=0.15, read=READ)


def a_run(material: Material, comparison: Artifact) -> ChampionRecord | None:
    """What the assets `decision` and `champion` do with a comparison; returns the champion after it."""
    key, root = decision_key_of(comparison), material.store.root
    found = decided(material, comparison, champion.champion_before(root, key))
    move = found.decision.promotion(found.case.candidates, comparison.fingerprint)
    if move is None:
        return current(root)
    evidence = {**move.evidence, "decided_on": key, EVIDENCE_KEY: found.entry}
    return champion.promote(root, lambda _: move.model_copy(update={"evidence": evidence}))


def test_a_better_model_is_promoted_by_the_name_of_its_experiment(material: Material) -> None:
    record, new = by_hand(material, material.compare(material.train(2.0)), "lora")
    assert new
    assert (record.name, record.kind, record.experiment, record.forced, record.by_hand) == (
        "lora/merged",
        "merged",
        "lora",
        False,
        True,
    )
    assert record.evidence["gates"] == {"token_audit": True, "merge": True}
    assert set(record.fingerprints) == {"base_model", "adapter", "merged_model"}


def test_a_worse_model_is_refused_with_the_failed_requirement(material: Material) -> None:
    comparison = material.compare(material.train(3.2))
    with pytest.raises(NotPromoted, match="lora/merged is not promoted: does not beat few_shot on loss"):
        by_hand(material, comparison, "lora")
    assert current(material.store.root) is None


def test_a_decision_says_what_each_row_lacks_against_the_champion_that_it_makes(material: Material) -> None:
    """As if it were decided again, with that champion and the looks since."""
    before: tuple[ChampionRecord | None, Artifact] | None = None
    for loss in (2.4, 2.0):
        scores = material.train(loss)
        comparison = material.compare(scores, before)
        decision = material.decide(comparison, SETTINGS)
        made = a_run(material, comparison)
        again = decided(material, comparison, made)
        told = Requirements.of(decision.document("decision.json")).by_hand
        assert made is not None and made.name == "lora/merged" and not made.by_hand
        assert told.keys() > {made.fingerprint}
        expected = {row.name: ruling_about(again.court, row) for row in again.case.rows}
        assert told[made.fingerprint] == expected and expected.keys() == {"lora/merged", "lora/adapter", "few_shot"}
        with pytest.raises(NotPromoted, match=r"few_shot is not promoted: .*does not beat lora/merged on"):
            material.promote(comparison, SETTINGS, "few_shot")
        before = made, scores


def newer_comparison(material: Material, comparison: Artifact) -> Artifact:
    return material.compare(material.train(2.0), None, primary_metric="chrf")


def older_decision(material: Material, comparison: Artifact) -> Artifact:
    draft = material.store.begin(Spec("decision", {"comparison": comparison.reference}, {"standing": None}))
    (draft.out / "decision.json").write_text(json.dumps({"matrix": {}}), encoding="utf-8")
    AssetPointers(material.store.root).write("decision", None, material.store.commit(draft, {}))
    return comparison


def moved_champion(material: Material, comparison: Artifact) -> Artifact:
    material.promote(comparison, SETTINGS, "few_shot", force=True, reason="tone")
    return comparison


def changed_setting(material: Material, comparison: Artifact) -> Artifact:
    material.decide(comparison, SETTINGS, {"promotion.forgetting_margin": 0.01})
    return comparison


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (newer_comparison, "the comparison is newer than the decision"),
        (older_decision, "the decision is of an older version"),
        (changed_setting, "a setting that decides was changed after the decision"),
        (moved_champion, "the champion moved after the decision"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_only_a_person_who_forces_it_releases_what_was_not_decided_on(
    material: Material, happens: Callable[[Material, Artifact], Artifact], why: str
) -> None:
    comparison = material.compare(material.train(2.0))
    material.decide(comparison, SETTINGS)
    present = happens(material, comparison)
    before = history(material.store.root)
    with pytest.raises(NotDecided, match=f"lora/merged was not decided on: {why}"):
        material.promote(present, SETTINGS, "lora")
    assert history(material.store.root) == before
    record, _, _ = material.promote(present, SETTINGS, "lora", force=True, reason="at once")
    assert record is not None and record.evidence["lacks"] == [f"was not decided on: {why}"]
    metric = read_comparison(present).primary
    assert (record.evidence["metric"], record.evidence["comparison"]) == (metric, present.fingerprint)


@pytest.mark.parametrize(
    ("gates", "why"), [({"merge": False}, "the check merge"), ({"audit": False}, "the check token_audit")]
)
def test_the_recorded_checks_are_read_again(material: Material, gates: dict[str, bool], why: str) -> None:
    comparison = material.compare(material.train(2.0, **gates))  # type: ignore[arg-type]
    with pytest.raises(NotPromoted, match=f"{why} failed"):
        by_hand(material, comparison, "lora")


def test_a_model_that_lost_general_accuracy_is_refused(material: Material) -> None:
    comparison = material.compare(material.train(2.0, accuracy=0.1))
    with pytest.raises(NotPromoted, match="Forgets: 160 of 400 questions were lost"):
        by_hand(material, comparison, "lora")


def test_force_needs_a_reason_and_is_recorded_with_what_it_overrode(material: Material) -> None:
    comparison = material.compare(material.train(3.2, merge=False))
    with pytest.raises(UserError, match="--reason"):
        by_hand(material, comparison, "lora", force=True, reason=" ")
    record, _ = by_hand(material, comparison, "lora", force=True, reason="the prompt leaks")
    assert (record.forced, record.reason) == (True, "the prompt leaks")
    assert record.evidence["gates"]["merge"] is False
    assert record.evidence["lacks"] == ["the check merge failed", "does not beat few_shot on loss"]


def test_an_adapter_and_a_prompt_variant_are_promoted_by_row(material: Material) -> None:
    comparison = material.compare(material.train(2.0, merge=False))
    adapter, _ = by_hand(material, comparison, "lora/adapter")  # what was never merged needs no merge check
    assert (adapter.kind, adapter.fingerprint) == ("adapter", adapter.fingerprints["adapter"])
    prompt, _ = by_hand(material, comparison, "few_shot", force=True, reason="cheaper")
    assert (prompt.kind, prompt.evidence["served"]) == ("prompt", {"system_prompt": "Be brief.", "few_shot": 2})


def test_promoting_the_current_champion_changes_nothing(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    by_hand(material, comparison, "lora")
    again, new = by_hand(material, comparison, "lora/merged")
    assert not new
    assert again.sequence == 1


@pytest.mark.parametrize(
    ("name", "why"), [("nope", "has no row 'nope'"), ("base", "kind base, which cannot be released")]
)
def test_an_unknown_name_is_refused_with_the_choices(material: Material, name: str, why: str) -> None:
    comparison = material.compare(material.train(2.0))
    with pytest.raises(UserError, match=f"{why}.*Choose one of lora, "):
        by_hand(material, comparison, name)


def test_scores_newer_than_the_comparison_are_refused(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    material.train(1.9, label="again")
    with pytest.raises(UserError, match="scored again after the comparison"):
        by_hand(material, comparison, "lora")


def test_runs_keep_a_persons_decision_until_there_is_a_new_model(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    released = a_run(material, comparison)
    assert released is not None and released.name == "lora/merged"
    by_hand(material, comparison, "few_shot", force=True, reason="complaints about the tone")
    standing = a_run(material, comparison)
    assert standing is not None and standing.name == "few_shot"
    retrained = a_run(material, material.compare(material.train(2.0, label="new data")))
    assert retrained is not None and retrained.name == "lora/merged"
    assert retrained.fingerprint != released.fingerprint


def test_a_rolled_back_model_is_not_released_until_a_person_promotes_it(material: Material) -> None:
    scores = material.train(2.4)
    old = a_run(material, material.compare(scores))
    comparison = material.compare(material.train(2.0, label="new data"), (old, scores))
    new = a_run(material, comparison)
    assert old is not None and new is not None and new.sequence == 2
    back = rollback(material.store, comparison, "complaints")
    assert (back.fingerprint, back.evidence, back.restores) == (old.fingerprint, old.evidence, 1)
    assert a_run(material, comparison) == back
    reasons = decided(material, comparison, None).decision.reasons
    assert "was rejected manually (record 3): run `ft promote lora/merged` to release it" in reasons[0]
    again, _ = by_hand(material, comparison, "lora", force=True, reason="it was not the model")
    assert again.fingerprint == new.fingerprint
    assert new.fingerprint not in manually_rejected(history(material.store.root))


def test_a_rollback_to_a_damaged_model_is_refused(material: Material) -> None:
    first = material.train(2.4)
    old = a_run(material, material.compare(first))
    comparison = material.compare(material.train(2.0, label="new data"), (old, first))
    a_run(material, comparison)
    merged = material.store.require(*first.inputs["merged_model"])
    (merged.path / "content.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"merged_model .* is damaged"):
        rollback(material.store, comparison, "")
    assert len(history(material.store.root)) == 2


def test_a_row_is_matched_by_its_model_not_by_its_name(material: Material) -> None:
    comparison = material.compare(material.train(2.4))
    old = a_run(material, comparison)
    assert old is not None
    again = material.compare(material.train(2.0, label="new data"))
    candidates, _ = find_candidates(again, material.store)
    assert released_row(read_comparison(again), candidates, old.fingerprint) is None
    candidates, _ = find_candidates(comparison, material.store)
    assert released_row(read_comparison(comparison), candidates, old.fingerprint) == "lora/merged"


def test_two_promotions_at_once_are_both_recorded_one_after_the_other(material: Material) -> None:
    comparison = material.compare(material.train(2.0))
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    workers = [
        context.Process(target=promote_at_once, args=(material.store.root, comparison.fingerprint, name, start))
        for name in ("lora", "few_shot")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    first, second = history(material.store.root)
    assert {first.name, second.name} == {"lora/merged", "few_shot"}
    assert second.previous == first.name
