"""The series of champion records: promotion, rollback, and several processes at once."""

import json
import multiprocessing
from pathlib import Path

import pytest

from ft_pipeline.decide.released import Candidate, ChampionRecord, Promotion
from ft_pipeline.errors import UserError
from ft_pipeline.release.champion import current, decision_key, history, promote, rollback


def candidate(name: str) -> Candidate:
    return Candidate(
        name=name,
        kind="merged",
        experiment="qlora",
        fingerprint=name * 8,
        fingerprints={"adapter": "a" * 64, "merged_model": name * 8},
        gates={"merge": True, "token_audit": True},
    )


def release(store: Path, name: str) -> ChampionRecord | None:
    return promote(
        store, lambda _: Promotion(candidate=candidate(name), reason=f"{name} is better", evidence={"metric": "loss"})
    )


def test_there_is_no_champion_in_an_empty_store(tmp_path: Path) -> None:
    assert current(tmp_path) is None
    assert history(tmp_path) == []


def test_a_promotion_appends_a_record_that_names_the_previous_champion(tmp_path: Path) -> None:
    release(tmp_path, "one")
    release(tmp_path, "two")
    champion = current(tmp_path)
    assert champion is not None
    assert (champion.name, champion.previous, champion.sequence, champion.forced) == ("two", "one", 2, False)
    assert champion.evidence == {"metric": "loss", "gates": {"merge": True, "token_audit": True}}
    assert [path.name for path in sorted((tmp_path / "champion").iterdir())] == ["000001.json", "000002.json"]
    assert json.loads((tmp_path / "champion" / "000001.json").read_text())["name"] == "one"


def test_a_decision_against_promotion_leaves_no_record(tmp_path: Path) -> None:
    assert promote(tmp_path, lambda _: None) is None
    release(tmp_path, "one")
    kept = promote(tmp_path, lambda _: None)
    assert kept is not None
    assert kept.name == "one"
    assert len(history(tmp_path)) == 1


def test_a_forced_promotion_needs_a_reason_and_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--reason"):
        promote(tmp_path, lambda _: Promotion(candidate=candidate("worse"), reason="  ", forced=True))
    forced = promote(
        tmp_path, lambda _: Promotion(candidate=candidate("worse"), reason="the old one leaks prompts", forced=True)
    )
    assert forced is not None
    assert (forced.forced, forced.reason) == (True, "the old one leaks prompts")


def test_rollbacks_restore_each_earlier_champion_exactly(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        release(tmp_path, name)
    first, second, _ = history(tmp_path)
    for expected in (second, first):
        back = rollback(tmp_path, "complaints")
        assert (back.name, back.fingerprint, back.fingerprints, back.evidence) == (
            expected.name,
            expected.fingerprint,
            expected.fingerprints,
            expected.evidence,
        )
        assert (back.previous, back.restores) == (expected.previous, expected.sequence)
        assert "complaints" in back.reason
    with pytest.raises(UserError, match="first champion"):
        rollback(tmp_path)
    assert [record.name for record in history(tmp_path)] == ["one", "two", "three", "two", "one"]


def test_rollback_without_a_champion_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no champion"):
        rollback(tmp_path)


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    release(tmp_path, "one")
    (tmp_path / "champion" / "000001.json").write_text("{")
    with pytest.raises(UserError, match=r"000001\.json"):
        current(tmp_path)


def test_a_record_with_other_fields_is_named(tmp_path: Path) -> None:
    """Its file is JSON of the right types, and has a key that no record has."""
    promote(
        tmp_path,
        lambda _: Promotion(
            candidate=Candidate(name="a", kind="merged", experiment="a", fingerprint="f" * 64), reason="why"
        ),
    )
    path = tmp_path / "champion" / "000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "made_up": 1}), encoding="utf-8")
    with pytest.raises(UserError, match=r"The record champion/000001\.json cannot be read .*made_up"):
        history(tmp_path)


def test_the_loser_of_a_race_decides_again_about_the_new_champion(tmp_path: Path) -> None:
    champions_seen: list[str | None] = []

    def choose(present: ChampionRecord | None) -> Promotion | None:
        champions_seen.append(present.name if present else None)
        if present is None:
            release(tmp_path, "faster")
            return Promotion(candidate=candidate("slower"), reason="beat nobody")
        return None

    champion = promote(tmp_path, choose)
    assert champion is not None
    assert champion.name == "faster"
    assert champions_seen == [None, "faster"]


def _release_many(store: Path, name: str, times: int, start: "multiprocessing.synchronize.Barrier") -> None:
    start.wait()
    for number in range(times):
        release(store, f"{name}{number}")


def test_processes_that_promote_at_once_lose_no_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    workers = [context.Process(target=_release_many, args=(tmp_path, name, 10, start)) for name in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    records = history(tmp_path)
    assert [record.sequence for record in records] == list(range(1, 41))
    assert {record.name for record in records} == {f"{name}{number}" for name in "abcd" for number in range(10)}
    assert [record.previous for record in records[1:]] == [record.name for record in records[:-1]]
    assert not list((tmp_path / "champion").glob(".*"))


def test_a_decision_is_on_scores_and_settings_not_on_what_follows_the_champion() -> None:
    """Otherwise each move of the champion would change the basis of its own decision."""
    scores = {"lora/scores": ("scores", "a")}
    key = decision_key(scores, {"primary_metric": "auto"})
    later = {"champion/scores": ("scores", "b"), "judgements": ("judgements", "c")}
    assert decision_key(scores | later, {"primary_metric": "auto", "not_asked": ["The judge …"]}) == key
    assert decision_key({"lora/scores": ("scores", "d")}, {"primary_metric": "auto"}) != key
    assert decision_key(scores, {"primary_metric": "chrf"}) != key
