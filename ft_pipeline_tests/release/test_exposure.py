"""How often test rows were used, and how that makes the next test stricter."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ft_pipeline.decide import exposure_ledger as ledger
from ft_pipeline.decide.exposure import Exposure, key_of_test, needed_lead
from ft_pipeline.decide.released import Candidate, ChampionRecord, Promotion
from ft_pipeline.errors import UserError
from ft_pipeline.release.champion import history, promote, rollback

IDS = [f"row{number:03}" for number in range(100)]


def entry(number: int, ids: list[str] = IDS, tests: int = 1, standing: int | None = None) -> ledger.NewEntry:
    candidates = [{"key": f"{number}:{test}", "level": 0.01, "name": f"c{test}"} for test in range(tests)]
    return ledger.NewEntry(
        comparison=f"comparison{number}",
        decision_key=f"key{number}",
        candidates=candidates,
        contenders=[f"settings{number}"],
        champion=None,
        standing=standing,
        metric="nats_per_byte",
        rules="3",
        test_ids=ids,
        e_before=0.0,
        screen={},
    )


def move(store: Path, name: str, *, exposure: int | None = None, **more: object) -> ChampionRecord:
    evidence = {} if exposure is None else {ledger.EVIDENCE_KEY: exposure}
    candidate = Candidate(name, "merged", name, name * 9)
    record = promote(store, lambda _: Promotion(candidate, "better", evidence, **more))  # type: ignore[arg-type]
    assert record is not None
    return record


def count(store: Path, ids: list[str] = IDS) -> float:
    return ledger.read_exposure(store, ids, history(store)).count


def test_the_levels_of_all_tests_add_up_to_the_rate_of_false_moves() -> None:
    """One candidate at a time, or several at once: the sum stays below 5 %."""
    assert Exposure().level(0.05, 1) == 0.025
    for candidates in (1, 3):
        levels = [candidates * Exposure(count=tests).level(0.05, candidates) for tests in range(0, 3000, candidates)]
        assert 0.049 < sum(levels) < 0.05


@pytest.mark.parametrize(("before", "needed"), [(0, 1.96), (1, 2.39), (4, 2.94), (9, 3.32), (19, 3.67)])
def test_each_earlier_test_asks_for_a_clearer_lead(before: int, needed: float) -> None:
    assert needed_lead(Exposure(count=before).level(0.05, 1)) == pytest.approx(needed, abs=0.006)


def test_rows_that_are_used_up_say_how_many_fresh_ones_help() -> None:
    assert not Exposure(count=19).is_used_up
    used_up = Exposure(count=20, test_share=0.15)
    assert used_up.is_used_up
    message = used_up.describe_end(134, 0.05)
    assert "These 134 test conversations were part of 20 tests since the champion last moved" in message
    assert "8 fresh ones allow one more test, 134 halve the count" in message
    assert "falls from 3.7 to 3.4 standard errors" in message
    assert "about 54 or 894 new rows" in message


def test_a_test_is_the_same_only_with_the_same_rivals_and_rows() -> None:
    rivals = {"base": 0.9, "champion": 0.8}
    first = key_of_test("a", 0.7, rivals, "rows", "nats_per_byte", ["3", "f"])
    assert first == key_of_test("a", 0.7, dict(reversed(rivals.items())), "rows", "nats_per_byte", ["3", "f"])
    others = [
        key_of_test("a", 0.71, rivals, "rows", "nats_per_byte", ["3", "f"]),  # a prompt with other examples
        key_of_test("a", 0.7, {"base": 0.9}, "rows", "nats_per_byte", ["3", "f"]),
        key_of_test("a", 0.7, rivals, "others", "nats_per_byte", ["3", "f"]),
        key_of_test("a", 0.7, rivals, "rows", "nats_per_byte", ["3", "g"]),  # measured in another way
    ]
    assert first not in others


def test_every_candidate_of_a_comparison_counts_and_fresh_rows_dilute(tmp_path: Path) -> None:
    assert count(tmp_path) == 0.0
    ledger.write_entry(tmp_path, entry(1, tests=3))
    ledger.write_entry(tmp_path, entry(2))
    assert count(tmp_path) == 4.0
    assert count(tmp_path, [*IDS, *(f"new{number}" for number in range(100))]) == 2.0
    assert count(tmp_path, IDS[:50]) == 4.0  # half of the rows were erased since
    own = ledger.read_exposure(tmp_path, IDS, [], own=("key2", None))
    assert (own.count, own.own) == (3.0, 1)


def test_a_move_by_the_rules_starts_the_count_anew(tmp_path: Path) -> None:
    ledger.write_entry(tmp_path, entry(1, tests=2))
    move(tmp_path, "a", exposure=1)
    assert count(tmp_path) == 0.0
    ledger.write_entry(tmp_path, entry(2))
    assert count(tmp_path) == 1.0


def test_a_move_by_hand_does_not(tmp_path: Path) -> None:
    ledger.write_entry(tmp_path, entry(1, tests=2))
    move(tmp_path, "a", by_hand=True)
    assert count(tmp_path) == 2.0
    move(tmp_path, "b", by_hand=True, forced=True)
    assert count(tmp_path) == 2.0


def test_a_rollback_brings_back_the_count_of_its_champion_with_all_tests_since(tmp_path: Path) -> None:
    ledger.write_entry(tmp_path, entry(1))
    move(tmp_path, "a", exposure=1)
    ledger.write_entry(tmp_path, entry(2))
    ledger.write_entry(tmp_path, entry(3))
    move(tmp_path, "b", exposure=3)
    ledger.write_entry(tmp_path, entry(4))
    assert count(tmp_path) == 1.0
    rollback(tmp_path)
    assert count(tmp_path) == 3.0


def test_an_old_champion_starts_at_no_test(tmp_path: Path) -> None:
    move(tmp_path, "old")
    assert count(tmp_path) == 0.0


def test_a_decision_does_not_count_its_own_tests(tmp_path: Path) -> None:
    ledger.write_entry(tmp_path, entry(1))
    assert ledger.last_entry_before(tmp_path, "key2", None) == 1
    ledger.write_entry(tmp_path, entry(2))
    assert ledger.last_entry_before(tmp_path, "key2", None) == 1
    assert ledger.last_entry_before(tmp_path, "key2", 1) == 2  # the same scores, but against another champion
    assert ledger.read_exposure(tmp_path, IDS, [], own=("key2", None)).levels == {"1:0": 0.01, "2:0": 0.01}


def test_tests_that_are_added_to_a_decision_count_its_own(tmp_path: Path) -> None:
    """As with `ft promote`, one candidate after the other: the levels add up as if they were tested one by one."""
    levels = []
    for number in range(12):
        exposure = ledger.read_exposure(tmp_path, IDS, [], own=("key1", None))
        levels.append(exposure.level(0.05, 1))
        new = entry(1)
        ledger.write_entry(tmp_path, replace(new, candidates=[{"key": str(number), "level": levels[-1], "name": "c"}]))
    assert sum(levels) < 0.05


def test_a_ledger_that_was_cut_short_is_not_believed(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        ledger.write_entry(tmp_path, entry(number))
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


def test_an_edited_entry_is_found_by_its_result(tmp_path: Path) -> None:
    number = ledger.write_entry(tmp_path, entry(1, tests=2))
    ledger.write_result(tmp_path, number, {"c0": {"p": 0.2}}, None)
    path = ledger.ledger(tmp_path).path(1)
    path.write_bytes(path.read_bytes().replace(b'"c1"', b'"c9"'))
    with pytest.raises(UserError, match=r"exposures/000001\.json does not match"):
        count(tmp_path)


def test_the_list_of_rows_that_is_missing_is_named(tmp_path: Path) -> None:
    ledger.write_entry(tmp_path, entry(1))
    [rows] = (ledger.ledger(tmp_path).folder / "rows").iterdir()
    rows.unlink()
    with pytest.raises(UserError, match=r"test rows of exposures/000001\.json are missing or were edited"):
        count(tmp_path)
    rows.write_text("another\n", encoding="utf-8")
    with pytest.raises(UserError, match="are missing or were edited"):
        count(tmp_path)


def test_an_emptied_ledger_is_missed_where_a_champion_or_a_decision_names_it(tmp_path: Path) -> None:
    ledger.write_entry(tmp_path, entry(1))
    move(tmp_path, "a", by_hand=True, exposure=1)
    shutil.rmtree(ledger.ledger(tmp_path).folder)
    with pytest.raises(UserError, match=r"exposures/000001\.json is missing"):
        count(tmp_path)
    assert ledger.read_exposure(tmp_path, IDS, []).count == 0.0
    with pytest.raises(UserError, match=r"exposures/000001\.json is missing"):
        ledger.read_exposure(tmp_path, IDS, [], known=2)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]"])
def test_a_result_that_cannot_be_read_is_a_fault_and_no_traceback(tmp_path: Path, content: bytes) -> None:
    number = ledger.write_entry(tmp_path, entry(1))
    assert number is not None
    ledger.write_result(tmp_path, number, {}, None)
    ledger.ledger(tmp_path).path(1).with_suffix(".result.json").write_bytes(content)
    (ledger.ledger(tmp_path).folder / "old.result.json").write_bytes(b"")  # a stray file
    with pytest.raises(UserError, match=r"exposures/000001\.json does not match its hash"):
        count(tmp_path)


def test_an_entry_without_its_chain_or_its_keys_is_a_fault(tmp_path: Path) -> None:
    for number in (1, 2):
        ledger.write_entry(tmp_path, entry(number))
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
    ledger.write_entry(tmp_path, entry(1, tests=19))
    move(tmp_path, "junk", by_hand=True, forced=True)
    move(tmp_path, "next", exposure=1)
    assert count(tmp_path) == 19.0


def test_nor_does_one_from_a_champion_that_could_not_be_compared(tmp_path: Path) -> None:
    move(tmp_path, "old")
    ledger.write_entry(tmp_path, entry(1, tests=5))
    evidence = {ledger.EVIDENCE_KEY: 1, "champion_compared": False}
    promote(tmp_path, lambda _: Promotion(Candidate("new", "merged", "new", "n" * 9), "better", evidence))
    assert count(tmp_path) == 5.0


def test_settings_that_appear_after_looks_are_counted() -> None:
    entries = [{"contenders": ["a"]}, {"contenders": ["a", "b"]}]
    assert [ledger.looks_before(entries, name) for name in ("a", "b", "c")] == [0, 1, 2]
