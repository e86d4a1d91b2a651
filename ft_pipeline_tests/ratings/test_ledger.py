"""The record of ratings: order and sides, several raters, kills, a retraining, an audit."""

import json
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ft_pipeline.audit.verify import verify
from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.ratings import pairs
from ft_pipeline.ratings.pairs import Match, Pair, in_order
from ft_pipeline.ratings.rating_ledger import Rating, Verdict, is_row, ledger, newest, read_ratings
from ft_pipeline.ratings.results import next_step, result_of
from ft_pipeline.store.text_redaction import PLACEHOLDER
from ft_pipeline_tests.forked_process import ForkedProcess
from ft_pipeline_tests.ratings.rated import PROMPT, TUNED, RatedProject, kind_answer

RATING_PROCESS = """
import sys
from pathlib import Path
from ft_pipeline.ratings.pairs import open_match
match = open_match(Path(sys.argv[1]), "lora/merged", "few_shot")
for pair in match.pairs_for(sys.argv[2], 20, match.ratings()):
    match.rate(pair, sys.argv[2], "candidate", note="n")
"""


def rate(match: Match, rater: str, count: int, verdict: Verdict = "candidate") -> list[Pair]:
    """Rate the next pairs of a rater."""
    own = {rating.item for rating in match.ratings() if rating.rater == rater}
    left = [pair for pair in match.pairs_for(rater, 1000, match.ratings()) if pair.item not in own][:count]
    for pair in left:
        match.rate(pair, rater, verdict)
    return left


def problems(project: RatedProject) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in verify(ArtifactIndex(project.store.root)).problems]


def start_rating(project: RatedProject, rater: str) -> ForkedProcess:
    return ForkedProcess(RATING_PROCESS, str(project.store.root), rater)


def is_fair(sides: list[int]) -> bool:
    """Within 6 standard deviations of fair coins: the seed is a secret, so that each run draws other ones."""
    return abs(sides.count(1) - len(sides) / 2) < 6 * (len(sides) / 4) ** 0.5


def test_the_sides_are_fixed_fair_and_differ_between_raters(project: RatedProject) -> None:
    match, again = project.match(), project.match(PROMPT, TUNED)
    sides = {f"r{n}": [match.side_of(TUNED, pair, f"r{n}") for pair in match.pairs] for n in range(100)}
    assert all(is_fair(side) for side in sides.values())
    assert is_fair([each for side in sides.values() for each in side])
    assert len({tuple(side) for side in sides.values()}) == 100
    assert [again.side_of(TUNED, pair, "r1") for pair in again.pairs] == sides["r1"]
    assert again.pairs[0].item == match.pairs[0].item
    for pair in match.pairs:
        assert {match.side_of(TUNED, pair, "r1"), match.side_of(PROMPT, pair, "r1")} == {1, 2}


def test_each_cluster_is_asked_once_before_one_is_asked_twice() -> None:
    turns = {group: range(1, 1 + ord(group) % 4 + 1) for group in "abcdefgh"}
    asked = [Pair(f"{group}:{turn}", [], "", {}, group) for group in turns for turn in turns[group]]
    first_turns = Counter()
    for seed in map(str, range(200)):
        order = [pair.item.split(":") for pair in in_order(asked, seed)]
        assert sorted(group for group, _ in order[:8]) == list("abcdefgh")
        first_turns[order[0][0]] += 1
        assert len({tuple(item) for item in order}) == len(asked)
    assert min(first_turns.values()) > 10  # 25 expected: every cluster is as likely to be first


def test_the_first_pairs_go_to_every_rater_and_the_others_to_one(
    project: RatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pairs.COMMON == 30
    monkeypatch.setattr(pairs, "COMMON", 4)
    match = project.match()
    first, second = rate(match, "r1", 6), rate(match, "r2", 6)
    assert first == match.pairs[:6]
    assert second == [*match.pairs[:4], *match.pairs[6:8]]
    assert match.pairs_for("r2", 6, match.ratings()) == second
    third = match.pairs_for("r3", 1000, match.ratings())
    assert third[:5] == [*match.pairs[:4], match.pairs[8]]
    assert third[-4:] == [match.pairs[number] for number in (4, 5, 6, 7)]  # at last, those of others
    assert len(third) == 63


def said(rater: str, *verdicts: Verdict) -> list[Rating]:
    """Verdicts of a rater about the first items."""
    return [
        Rating("2026-11-28T04:00:00+00:00", rater, TUNED, PROMPT, f"{item:03}:1", "a", "b", 1, verdict, None, None)
        for item, verdict in enumerate(verdicts)
    ]


def test_the_result_has_the_agreement_of_the_raters() -> None:
    first = said("r1", *["candidate"] * 20, *["rival"] * 10)  # type: ignore[list-item]
    second = said("r2", *["candidate"] * 25, *["neither"] * 5)  # type: ignore[list-item]
    result = result_of(TUNED, PROMPT, [*first, *second])
    assert (result.pairs, result.raters) == (30, {"r1": 30, "r2": 30})
    assert (result.wins, result.ties, result.losses) == (20, 5, 5)
    assert result.win_rate.value == pytest.approx((20 + 5 * 0.5 + 5 * 0.25) / 30)
    assert result.agreement is not None
    assert result.agreement.alpha == pytest.approx(0.28916, abs=1e-4)
    assert result.can_go_out.value == pytest.approx(1 - 5 / 60)
    assert "30 pairs, which is too few" in result.lines()[-1]
    alone = result_of(TUNED, PROMPT, first, {rating.item: rating.item for rating in first})
    assert alone.agreement is None
    assert (alone.can_go_out.value, alone.can_go_out.high) == (1.0, 1.0)
    assert alone.can_go_out.low == pytest.approx(0.8865, abs=1e-4)  # Wilson's, of 30 of 30
    alike = result_of(TUNED, PROMPT, first, {rating.item: f"{number % 15}" for number, rating in enumerate(first)})
    assert alike.win_rate.value == alone.win_rate.value and alike.win_rate.low < alone.win_rate.low
    assert result.win_rate.low is None  # the clusters are not known


def test_what_to_do_next_depends_on_the_pairs_that_are_left() -> None:
    few = result_of(TUNED, PROMPT, said("r1", *["candidate"] * 10))  # type: ignore[list-item]
    enough = result_of(TUNED, PROMPT, said("r1", *["candidate"] * 50))  # type: ignore[list-item]
    assert f"`ft rate {TUNED} {PROMPT} -n 50`" in next_step(few, 63)
    assert f"`ft rate {TUNED} {PROMPT} -n 20`" in next_step(few, 20)
    assert "Add test conversations." in next_step(few, 10)
    assert next_step(enough, 50).endswith("`ft run` brings these ratings into the comparison and the decision.")


def test_a_question_has_the_turns_before_it() -> None:
    turns = [{"role": "user", "text": "Hello"}, {"role": "assistant", "text": "Hi"}, {"role": "user", "text": "Late?"}]
    assert Pair("a:3", turns, "", {}, "a").question == "user: Hello\n\nassistant: Hi\n\nuser: Late?"
    assert Pair("a:1", turns[:1], "", {}, "a").question == "Hello"


def test_two_raters_at_once_lose_nothing(project: RatedProject) -> None:
    match = project.match()
    with ThreadPoolExecutor(2) as raters:
        done = list(raters.map(lambda rater: rate(project.match(), rater, 8), ("r1", "r2")))
    ratings = match.ratings()
    for rater, rated in zip(("r1", "r2"), done, strict=True):
        assert {rating.item for rating in ratings if rating.rater == rater} == {pair.item for pair in rated}
    assert len(read_ratings(project.store.root)) == 16
    assert problems(project) == []


@pytest.mark.parametrize("signed", [True, pytest.param(False, marks=pytest.mark.long)])
def test_two_processes_and_a_kill_leave_whole_records(tmp_path: Path, signed: bool) -> None:
    project = RatedProject.create(tmp_path / "shop", signed=signed)
    project.compare()
    first, second = start_rating(project, "r1"), start_rating(project, "r2")
    deadline = time.monotonic() + 60
    while len(ledger(project.store.root).paths()) < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    second.send_signal(signal.SIGKILL)
    first.wait(), second.wait()
    match = project.match()
    kept = Counter(rating.rater for rating in match.ratings())
    assert sum(kept.values()) >= 10
    rate(match, "r1", 20 - kept["r1"])  # completes the last change
    assert Counter(rating.rater for rating in match.ratings())["r1"] == 20
    assert problems(project) == []


def test_verdicts_survive_a_retraining_where_the_answers_are_the_same(project: RatedProject) -> None:
    rated = {pair.item for pair in rate(project.match(), "r1", 12)}
    project.compare(tuned=lambda number: kind_answer(number) if number < 35 else f"Another answer {number}.", loss=1.8)
    match = project.match()
    kept = {rating.item for rating in match.ratings()}
    assert kept == {item for item in rated if int(item[:3]) < 35}
    assert 1 < len(kept) < 11
    asked = {int(pair.item[:3]) for pair in match.pairs_for("r1", 12, match.ratings()) if pair.item not in kept}
    assert all(number >= 35 for number in asked)


def test_verdicts_count_with_the_sides_exchanged(project: RatedProject) -> None:
    rate(project.match(), "r1", 3, "candidate")
    rate(project.match(PROMPT, TUNED), "r1", 2, "candidate")
    found = project.match().ratings()
    assert Counter(rating.verdict for rating in found) == {"candidate": 3, "rival": 2}
    assert {(rating.candidate, rating.rival) for rating in found} == {(TUNED, PROMPT)}
    match = project.match()
    for rating in found:
        assert rating.candidate_side == match.side_of(TUNED, match.by_item[rating.item], "r1")


def test_the_last_verdict_of_a_rater_counts(project: RatedProject) -> None:
    match = project.match()
    for verdict in ("candidate", "neither", "rival"):
        match.rate(match.pairs[0], "r1", verdict)
    match.rate(match.pairs[0], "r2", "both_good")
    assert [(rating.rater, rating.verdict) for rating in newest(read_ratings(project.store.root))] == [
        ("r1", "rival"),
        ("r2", "both_good"),
    ]


def edit_verdict(folder: Path) -> None:
    path = folder / "000003.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"verdict": "rival"}))


def remove_record(folder: Path) -> None:
    (folder / "000003.json").unlink()


def edit_item(folder: Path) -> None:
    path = folder / "rows" / f"{json.loads((folder / '000003.json').read_text())['row']}.json"
    row = json.loads(path.read_text())
    other = "001:1" if row["item"] != "001:1" else "002:1"  # which pairs are rated is left to chance
    path.write_text(json.dumps(row | {"item": other}))


def remove_row(folder: Path) -> None:
    path = folder / "rows" / f"{json.loads((folder / '000003.json').read_text())['row']}.json"
    path.unlink()


def pretend_erasure(folder: Path) -> None:
    path = folder / "rows" / f"{json.loads((folder / '000003.json').read_text())['row']}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"item": f"excluded:{'0' * 64}:1"}))


@pytest.mark.parametrize("attack", [edit_verdict, remove_record, edit_item, remove_row, pretend_erasure])
@pytest.mark.parametrize("signed", [True, False])
def test_what_was_changed_by_hand_is_found_and_not_used(project: RatedProject, attack: object, signed: bool) -> None:
    rate(project.match(), "r1", 3)
    if not signed:
        for name in ("journal.jsonl", "signing_key.pub"):
            (project.store.root / name).unlink()
        shutil.move(project.root, project.root.with_name("moved"))  # this machine remembers no line of its journal
        project = RatedProject(project.root.with_name("moved"))
    attack(project.store.root / "ratings")  # type: ignore[operator]
    assert {where for _, where in problems(project)} == {"ratings/000003.json"}
    with pytest.raises(UserError, match=r"The record of ratings is damaged: ratings/000003\.json .* Restore"):
        project.match().ratings()


def test_a_stray_file_is_named(project: RatedProject) -> None:
    rate(project.match(), "r1", 1)
    (project.store.root / "ratings" / "notes.txt").write_text("x")
    assert problems(project) == [("extra_file", "ratings/notes.txt")]


def test_names_that_cannot_be_rated_are_refused(project: RatedProject) -> None:
    with pytest.raises(UserError, match=r"has no row 'qlora'\. Choose two of these: lora/merged, few_shot, base\."):
        project.match("qlora", PROMPT)
    with pytest.raises(UserError, match=r"Both names are 'few_shot'\. Name two rows"):
        project.match(PROMPT, PROMPT)
    project.compare(prompt=kind_answer)
    with pytest.raises(UserError, match="give the same 70 answers"):
        project.match()


def test_a_row_that_only_mentions_an_erasure_is_not_one_that_was_erased() -> None:
    """A copy with such a row is refused: the marker stands for the item, and the redacted text is the note."""
    row = {"item": "row-1:1", "candidate_answer": "a", "rival_answer": "b", "note": None}
    elsewhere = ({**row, "candidate_answer": "excluded:1"}, {**row, "rival_answer": PLACEHOLDER}, {"text": PLACEHOLDER})
    for forged in elsewhere:
        assert not is_row(json.dumps(forged).encode(), "0" * 64)
    assert is_row(json.dumps({**row, "note": PLACEHOLDER}).encode(), "0" * 64)
