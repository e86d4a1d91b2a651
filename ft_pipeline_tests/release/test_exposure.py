"""How often test rows were looked at, and how that makes the next test stricter."""

import json
import shutil
from pathlib import Path

import pytest

from ft_pipeline.decide import exposure_ledger as ledger
from ft_pipeline.decide.exposure import SHARE_OF_TUNED, USED_UP, Exposure, needed_lead
from ft_pipeline.decide.exposure_ledger import Look
from ft_pipeline.decide.looks import changes, comparisons_before, exposure_of
from ft_pipeline.decide.notes import OFTEN, exposure_note
from ft_pipeline.decide.released import Candidate, ChampionRecord, Promotion
from ft_pipeline.errors import UserError
from ft_pipeline.release.champion import history, promote, rollback
from ft_pipeline.store.hashing import sha256_of_file

IDS = [f"row{number:03}" for number in range(100)]
OLD = {"comparison": "c", "decision_key": "key", "standing": None, "contenders": ["s"], "champion": None}


def look_at(store: Path, number: int, ids: list[str] = IDS, count: int = 1, compared: str | None = None) -> None:
    """Look at `count` tuned models of other settings. compared: as in write_looks; None: a comparison of their own."""
    looks = [Look(f"{number}:{model}", f"c{model}", f"settings{number}:{model}") for model in range(count)]
    ledger.write_looks(store, looks, ids, {}, f"key{number}" if compared is None else compared)


def move(store: Path, name: str, *, exposure: int | None = None, **more: object) -> ChampionRecord:
    evidence = {} if exposure is None else {ledger.EVIDENCE_KEY: exposure}
    candidate = Candidate(name=name, kind="merged", experiment=name, fingerprint=name * 9)
    record = promote(store, lambda _: Promotion(candidate=candidate, reason="better", evidence=evidence, **more))  # type: ignore[arg-type]
    assert record is not None
    return record


def counted(store: Path) -> list[ledger.Entry]:
    return ledger.read_counted(store, history(store))


def count(store: Path, ids: list[str] = IDS) -> float:
    return exposure_of(counted(store), ids).count


def level(earlier: float, present: int = 1, *, is_tuned: bool = True) -> float:
    return Exposure(count=earlier).level(0.05, "", is_tuned=is_tuned, present=present)


def test_the_levels_of_all_looks_add_up_to_the_rate_of_false_moves() -> None:
    """One model at a time, or several at once, tuned models and prompts: the sum stays below 5 %."""
    assert level(0) == pytest.approx(0.05 / 3)
    for present in (1, 3):
        sums = [
            sum(present * level(earlier, present, is_tuned=is_tuned) for earlier in range(0, 3000, present))
            for is_tuned in (True, False)
        ]
        assert 0.049 < sum(sums) < 0.05 and sums[0] == pytest.approx(SHARE_OF_TUNED * sum(sums))


@pytest.mark.parametrize(("before", "needed"), [(0, 2.13), (1, 2.54), (4, 3.06), (9, 3.43), (19, 3.78), (364, 5.03)])
def test_each_earlier_look_asks_for_a_clearer_lead(before: int, needed: float) -> None:
    assert needed_lead(level(before)) == pytest.approx(needed, abs=0.006)


def test_rows_that_are_often_looked_at_say_how_many_fresh_ones_help() -> None:
    assert exposure_note(Exposure(count=OFTEN - 1, designs=1), 134, 0.05) == ""
    assert exposure_note(Exposure(count=OFTEN, designs=1), 134, 0.05).startswith(
        "20 models of 1 settings were looked at"
    )
    often = Exposure(count=365, designs=1, test_share=0.15)
    assert not often.is_used_up, "a training that is repeated every night is one design"
    assert exposure_note(often, 134, 0.05) == (
        "365 models of 1 settings were looked at on these 134 test conversations since the champion last moved. 134 "
        "fresh ones halve the count, and the needed lead falls from 5.0 to 4.8 standard errors. At a test share of "
        "15%, that is about 894 new rows."
    )
    used_up = Exposure(count=50, designs=USED_UP, test_share=0.15)
    assert used_up.is_used_up
    assert "4 fresh ones allow one more test. 134 fresh ones halve" in exposure_note(used_up, 134, 0.05)
    assert "about 27 or 894 new rows" in exposure_note(used_up, 134, 0.05)


def test_looks_without_a_decision_count_and_fresh_rows_dilute(tmp_path: Path) -> None:
    assert count(tmp_path) == 0.0
    look_at(tmp_path, 1, count=3, compared="")
    look_at(tmp_path, 2)
    assert count(tmp_path) == 4.0
    assert count(tmp_path, [*IDS, *(f"new{number}" for number in range(100))]) == 2.0
    assert count(tmp_path, IDS[:50]) == 4.0  # half of the rows were erased since


def test_the_same_look_counts_once(tmp_path: Path) -> None:
    for compared in ("", "key", "key", "another"):
        look_at(tmp_path, 1, count=2, compared=compared)
    assert [entry.compared for entry in ledger.read_entries(tmp_path)] == ["", "key"]
    assert count(tmp_path) == 2.0


def test_models_that_are_compared_together_share_a_level_and_later_ones_come_after(tmp_path: Path) -> None:
    models = {name: Look(name, name, name) for name in ("a", "b", "c", "d")}
    first, second = [models[name] for name in ("a", "b")], list(models.values())
    for look in (*first, models["d"]):
        ledger.write_looks(tmp_path, [look], IDS, {})
    ledger.write_looks(tmp_path, first, IDS, {}, "key1")
    ledger.write_looks(tmp_path, second, IDS, {}, "key2")
    tries = exposure_of(counted(tmp_path), IDS, models).of
    assert [(tries[name].earlier, tries[name].together) for name in models] == [(1, 2), (1, 2), (2, 2), (2, 2)]
    assert tries["a"].designs == 1.0, "d was looked at before, and compared after it"


def test_prompts_are_counted_apart_until_a_tuned_model_need_not_beat_them(tmp_path: Path) -> None:
    tuned, prompts = Look("t", "t", "t"), [Look(name, name, name, is_tuned=False) for name in ("p", "q")]
    ledger.write_looks(tmp_path, [tuned, *prompts], IDS, {})
    both = {"t": tuned, **{look.name: look for look in prompts}}
    found = exposure_of(counted(tmp_path), IDS, both)
    assert (found.tries("t").earlier, found.tries("t").together, found.tries("p").together) == (0.0, 1, 2)
    assert exposure_of(counted(tmp_path), IDS, {"t": tuned, "p": prompts[0]}).tries("t").earlier == 1.0


def test_rows_on_which_a_pair_is_the_same_do_not_dilute(tmp_path: Path) -> None:
    look_at(tmp_path, 1, count=4)
    now = [*IDS, *(f"easy{number}" for number in range(1340))]
    tuned = {"t": Look("t")}
    assert exposure_of(counted(tmp_path), now, tuned).tries("t").earlier == pytest.approx(4 * 100 / 1440)
    differs = {"t": {name: float(name in IDS[:9]) for name in now}}
    assert exposure_of(counted(tmp_path), now, tuned, differs).tries("t").earlier == 4.0


def test_what_was_changed_after_the_first_look_is_named_with_its_old_value(tmp_path: Path) -> None:
    prompt, tuned = Look("p", "v3", "p", is_tuned=False), Look("t", "lora", "t")
    strict = {"promotion.forgetting_margin": 0.05, "promotion.metric": "auto"}
    ledger.write_looks(tmp_path, [prompt, tuned], IDS, strict)
    entries = counted(tmp_path)
    assert changes(entries, [prompt, tuned], IDS, strict) == []
    assert changes(entries, [tuned], IDS[7:], {**strict, "promotion.forgetting_margin": 0.2}) == [
        "promotion.forgetting_margin was 0.05 when these models were first looked at.",
        "7 of the 100 test conversations of the first look are no longer tested.",
        "v3 was looked at, and no longer compared.",
    ]
    assert changes(entries, [Look("x", "new", "new")], IDS, {}) == []


def test_an_entry_of_the_version_before_counts_each_test_as_a_look(tmp_path: Path) -> None:
    tests = [{"key": "1", "level": 0.01, "kind": "merged", "settings_hash": "s"}, {"key": "2", "kind": "prompt"}]
    ledger.write_looks(tmp_path, [Look("x")], IDS, {})
    rows = ledger.read_entries(tmp_path)[0].rows
    ledger.ledger(tmp_path).append({**OLD, "sequence": 2, "candidates": tests, "rows": rows})
    old = ledger.read_entries(tmp_path)[1]
    assert (old.compared, old.designs, [look.is_tuned for look in old.looks]) == ("key", {"s", ""}, [True, False])
    assert count(tmp_path) == 3.0


def test_a_move_by_the_rules_starts_the_count_anew(tmp_path: Path) -> None:
    look_at(tmp_path, 1, count=2)
    move(tmp_path, "a", exposure=1)
    assert count(tmp_path) == 0.0
    look_at(tmp_path, 2)
    assert count(tmp_path) == 1.0


def test_a_move_by_hand_does_not(tmp_path: Path) -> None:
    look_at(tmp_path, 1, count=2)
    move(tmp_path, "a", by_hand=True)
    assert count(tmp_path) == 2.0
    move(tmp_path, "b", by_hand=True, forced=True)
    assert count(tmp_path) == 2.0


def test_a_rollback_brings_back_the_count_of_its_champion_with_all_tests_since(tmp_path: Path) -> None:
    look_at(tmp_path, 1)
    move(tmp_path, "a", exposure=1)
    look_at(tmp_path, 2)
    look_at(tmp_path, 3)
    move(tmp_path, "b", exposure=3)
    look_at(tmp_path, 4)
    assert count(tmp_path) == 1.0
    rollback(tmp_path)
    assert count(tmp_path) == 3.0


def test_an_old_champion_starts_at_no_test(tmp_path: Path) -> None:
    move(tmp_path, "old")
    assert count(tmp_path) == 0.0


def test_a_comparison_that_shows_nothing_new_is_no_reason_to_decide_again(tmp_path: Path) -> None:
    look_at(tmp_path, 1)
    look_at(tmp_path, 2)
    assert ledger.last_entry_before(tmp_path, "key2") == 1
    assert ledger.last_entry_before(tmp_path, "key3") == 2


def test_a_ledger_that_was_cut_short_is_not_believed(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        look_at(tmp_path, number)
    move(tmp_path, "a", exposure=3)
    path = ledger.ledger(tmp_path).path(3)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"exposures/000003\.json is missing.*Restore"):
        count(tmp_path)
    path.write_bytes(content)
    ledger.ledger(tmp_path).path(2).unlink()
    with pytest.raises(UserError, match=r"exposures/000002\.json is missing"):
        count(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]"])
def test_an_entry_of_the_version_before_must_match_its_result(tmp_path: Path, content: bytes | None) -> None:
    look_at(tmp_path, 1)
    path = ledger.ledger(tmp_path).path(1)
    result = json.dumps({"entry_sha256": sha256_of_file(path), "results": {}, "moved": None}).encode()
    path.with_suffix(".result.json").write_bytes(result)
    assert count(tmp_path) == 1.0
    (ledger.ledger(tmp_path).folder / "old.result.json").write_bytes(b"")  # a stray file
    if content is None:
        path.write_bytes(path.read_bytes().replace(b'"c0"', b'"c9"'))
    else:
        path.with_suffix(".result.json").write_bytes(content)
    with pytest.raises(UserError, match=r"exposures/000001\.json does not match its hash"):
        count(tmp_path)


def test_the_list_of_rows_that_is_missing_is_named(tmp_path: Path) -> None:
    look_at(tmp_path, 1)
    [rows] = (ledger.ledger(tmp_path).folder / "rows").iterdir()
    rows.unlink()
    with pytest.raises(UserError, match=r"test rows of exposures/000001\.json are missing or were edited"):
        count(tmp_path)
    rows.write_text("another\n", encoding="utf-8")
    with pytest.raises(UserError, match="are missing or were edited"):
        count(tmp_path)


def test_an_emptied_ledger_is_missed_where_a_champion_or_a_decision_names_it(tmp_path: Path) -> None:
    look_at(tmp_path, 1)
    move(tmp_path, "a", by_hand=True, exposure=1)
    shutil.rmtree(ledger.ledger(tmp_path).folder)
    with pytest.raises(UserError, match=r"exposures/000001\.json is missing"):
        count(tmp_path)
    assert ledger.read_counted(tmp_path, []) == []
    with pytest.raises(UserError, match=r"exposures/000001\.json is missing"):
        ledger.read_entries(tmp_path, known=2)


def test_an_entry_without_its_chain_or_its_keys_is_a_fault(tmp_path: Path) -> None:
    for number in (1, 2):
        look_at(tmp_path, number)
    path = ledger.ledger(tmp_path).path(2)
    whole = json.loads(path.read_bytes())
    path.write_text(json.dumps({**whole, "previous_sha256": None}), encoding="utf-8")
    with pytest.raises(UserError, match=r"000002\.json does not contain the hash of the entry before it"):
        count(tmp_path)
    path.write_text(json.dumps({key: value for key, value in whole.items() if key != "rows"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"000002\.json has no rows"):
        count(tmp_path)


def test_a_move_that_beat_only_what_was_forced_starts_nothing_anew(tmp_path: Path) -> None:
    """Otherwise a forced bad model, and a move from it, would give fresh test rows."""
    look_at(tmp_path, 1, count=19)
    move(tmp_path, "junk", by_hand=True, forced=True)
    move(tmp_path, "next", exposure=1)
    assert count(tmp_path) == 19.0


def test_nor_does_one_from_a_champion_that_could_not_be_compared(tmp_path: Path) -> None:
    move(tmp_path, "old")
    look_at(tmp_path, 1, count=5)
    evidence = {ledger.EVIDENCE_KEY: 1, "champion_compared": False}
    promote(
        tmp_path,
        lambda _: Promotion(
            candidate=Candidate(name="new", kind="merged", experiment="new", fingerprint="n" * 9),
            reason="better",
            evidence=evidence,
        ),
    )
    assert count(tmp_path) == 5.0


def test_settings_that_appear_after_comparisons_are_counted(tmp_path: Path) -> None:
    look_at(tmp_path, 1, compared="")
    assert comparisons_before(counted(tmp_path), "settings2:0") == 0, "scores alone were not compared yet"
    look_at(tmp_path, 1)
    look_at(tmp_path, 2)
    names = ("settings1:0", "settings2:0", "new")
    assert [comparisons_before(counted(tmp_path), name) for name in names] == [0, 1, 2]
