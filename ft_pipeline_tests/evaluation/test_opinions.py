"""The opinions of people and of a judge in a comparison: whose verdicts count, what they say, and what they decide."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.claim import Claim, OpinionFacts, verdict_of
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.documents import comparison_of
from ft_pipeline.decide.notes import footnotes, shown_opinions
from ft_pipeline.decide.sentences import ask_for_ratings
from ft_pipeline.decide.sources.qualification import why_not_qualified
from ft_pipeline.decide.units import label
from ft_pipeline.evaluation.opinions.agreement import Agreement
from ft_pipeline.evaluation.opinions.correction import WinRate
from ft_pipeline.evaluation.opinions.verdict_tables import Judgement, hash_of_answer
from ft_pipeline_tests.evaluation.opined import (
    CONFIG,
    ITEMS,
    RIVAL,
    ROW,
    answer,
    compared,
    judge_like,
    judgement,
    mixed,
    opinion,
    opinion_inputs,
    rate,
    rating,
    score_all,
)
from ft_pipeline_tests.evaluation.scored import scored

FIFTY = mixed(30, 15, 5)


def required(comparison: Comparison, by: str, **pair: str) -> Claim:
    found = opinion(comparison, by, **pair)
    assert found is not None
    return found


def facts(claim: Claim) -> OpinionFacts:
    return claim.told(OpinionFacts)


def rows_of(comparison: Comparison) -> tuple[Row, Row]:
    row, rival = comparison.row(ROW), comparison.row(RIVAL)
    assert row and rival
    return row, rival


def test_without_opinions_two_keys_decide(tmp_path: Path) -> None:
    measured = compared(tmp_path)
    assert measured.of_kind("opinion") == []
    assert measured.decided_by.startswith("Two keys decide")


def test_fifty_ratings_of_people_decide(tmp_path: Path) -> None:
    measured = compared(tmp_path, rate(FIFTY))
    found = required(measured, "people")
    assert (facts(found).rated, facts(found).judged, facts(found).may_decide) == (50, 0, True)
    assert found.value is not None and found.value == pytest.approx((30 + 2.5) / 50)
    assert found.low is not None and found.low < found.value and found.p is not None and found.p < 0.05
    assert measured.deciding(*rows_of(measured)).measure == "people"
    assert measured.decided_by.startswith("People decide between a/merged and base. Elsewhere: Two keys decide")
    again = Comparison.model_validate(json.loads(json.dumps(measured.to_json())))
    assert again.of_kind("opinion") == measured.of_kind("opinion")


def test_fewer_ratings_are_told_and_decide_nothing(tmp_path: Path) -> None:
    found = required(compared(tmp_path, rate(FIFTY[:49])), "people")
    assert not facts(found).may_decide and facts(found).because == "49 pairs are rated, and 50 are wanted"


def test_a_few_equal_answers_of_other_models_are_no_opinion(tmp_path: Path) -> None:
    assert compared(tmp_path, rate(FIFTY[:9])).of_kind("opinion") == []


def test_a_metric_that_the_project_names_overrides_people(tmp_path: Path) -> None:
    measured = compared(tmp_path, rate(FIFTY), config={"primary_metric": "chrf"})
    assert not facts(required(measured, "people")).may_decide
    assert measured.decided_by == "promotion.metric names chrf." and not measured.ratings_may_decide
    assert not measured.changed(decided_by="").ratings_may_decide  # no sentence says so
    document = measured.to_json()
    assert document.pop("names_metric") and comparison_of(document).names_metric  # as an older version wrote it
    assert "names_metric" not in compared(tmp_path / "auto", rate(FIFTY)).to_json()


def test_the_last_verdict_of_a_rater_counts_also_with_exchanged_sides(tmp_path: Path) -> None:
    first = [rating(number, "rival") for number in range(60)]
    later = [rating(number, "rival", row=RIVAL, rival=ROW) for number in range(60)]
    found = required(compared(tmp_path, [*first, *later]), "people")
    assert (facts(found).rated, found.value) == (60, 1.0)


def test_only_verdicts_on_the_present_answers_count(tmp_path: Path) -> None:
    """After a retraining, 20 of 60 answers are others."""
    ratings = rate(mixed(30, 30))
    changed = [{**row, "candidate_answer": "0" * 64} if number < 20 else row for number, row in enumerate(ratings)]
    renamed = [{**row, "candidate": "old/merged"} for row in changed]
    found = required(compared(tmp_path, renamed), "people")
    assert (facts(found).rated, facts(found).changed) == (40, 0)


def test_answers_that_changed_after_they_were_rated_must_be_rated_again(tmp_path: Path) -> None:
    """What a retraining did not change is no random part of the answers."""
    ratings = rate(mixed(40, 30))
    old = [{**row, "candidate_answer": "0" * 64} if number < 12 else row for number, row in enumerate(ratings)]
    (tmp_path / "old").mkdir()
    measured = compared(tmp_path / "old", old)
    found = facts(required(measured, "people"))
    assert (found.rated, found.changed, found.may_decide) == (58, 12, False)
    assert found.because == "12 rated answers have changed since, and must be rated again"
    assert ask_for_ratings(measured, *rows_of(measured)) == "rate 12 more pairs with `ft rate a/merged base`"
    again = facts(required(compared(tmp_path, old + ratings[:12]), "people"))
    assert (again.rated, again.changed, again.may_decide) == (70, 0, True)


def test_several_raters_are_one_vote_for_each_pair_and_their_agreement_is_told(tmp_path: Path) -> None:
    ratings = rate(FIFTY) + rate(FIFTY[:30], rater="bob")
    found = required(compared(tmp_path, ratings), "people")
    alpha = facts(found).alpha
    assert (facts(found).rated, found.value) == (50, pytest.approx(32.5 / 50))
    assert alpha is not None and (alpha.alpha, alpha.pairs) == (1.0, 30)


def test_the_share_that_can_go_out(tmp_path: Path) -> None:
    verdicts = ["candidate"] * 30 + ["both_good"] * 27 + ["neither"] * 3
    share = facts(required(compared(tmp_path, rate(verdicts)), "people")).can_go_out
    assert share is not None and share.value == pytest.approx(0.95)
    assert share.low == pytest.approx(0.863, abs=0.002) and share.high == pytest.approx(0.983, abs=0.002)


def test_people_correct_a_judge_that_always_prefers_the_candidate(tmp_path: Path) -> None:
    """It prefers the candidate everywhere, people do not: their word stays."""
    verdicts = mixed(30, 30)
    judgements = [judgement(number, 1.0) for number in range(ITEMS)]
    measured = compared(tmp_path, rate(verdicts), judgements)
    people, judge = required(measured, "people"), required(measured, "judge")
    assert (facts(people).judged, people.value) == (ITEMS, pytest.approx(0.5))
    assert judge.value == 1.0 and not facts(judge).may_decide
    assert any("blind, which correct those of a judge on 134" in note for note in footnotes(measured))


def test_a_judge_that_agrees_makes_the_interval_narrower(tmp_path: Path) -> None:
    verdicts = mixed(38, 22)
    (tmp_path / "alone").mkdir()
    alone = required(compared(tmp_path / "alone", rate(verdicts)), "people")
    both = required(compared(tmp_path, rate(verdicts), judge_like(verdicts, agrees=1.0)), "people")
    widths = [found.high - found.low for found in (alone, both) if found.high is not None and found.low is not None]
    assert widths[1] < 0.95 * widths[0]


def test_a_rated_conversation_that_the_judge_left_out_is_not_corrected(tmp_path: Path) -> None:
    verdicts = mixed(30, 30)
    judgements = judge_like(verdicts)[1:]
    assert facts(required(compared(tmp_path, rate(verdicts), judgements), "people")).judged == 0


def test_equal_answers_are_no_comparison(tmp_path: Path) -> None:
    """The judge counts them as ties; here, only answers that differ are compared."""
    rows = [judgement(number, 1.0) for number in range(60)]
    same = [{**judgement(number, 0.5), "rival_answer": rows[0]["candidate_answer"]} for number in range(60, ITEMS)]
    same = [{**row, "candidate_answer": row["rival_answer"]} for row in same]
    assert facts(required(compared(tmp_path, (), rows + same), "judge")).judged == 60


# --- a judge alone ----------------------------------------------------------------------------------------------------

RATED = mixed(35, 20, 5)


def judged_alone(folder: Path, **values: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """People rated b against base, and the judge compared both a and b with base."""
    of_b = judge_like(RATED, agrees=0.9, row="b/merged")
    of_a = [judgement(number, float(number % 5 > 0), **values) for number in range(ITEMS)]
    return rate(RATED, row="b/merged"), [*of_b, *of_a]


def test_a_judge_decides_alone_where_it_agrees_with_people_elsewhere(tmp_path: Path) -> None:
    ratings, judgements = judged_alone(tmp_path)
    measured = compared(tmp_path, ratings, judgements)
    judge = facts(required(measured, "judge"))
    assert judge.may_decide and judge.alpha is not None and judge.alpha.alpha > 0.6
    assert opinion(measured, "people") is None
    assert "A judge that agrees with people decides between a/merged and base." in measured.decided_by
    of_b = facts(required(measured, "judge", row="b/merged"))
    assert not of_b.may_decide and of_b.because == "people decide on these answers"


def worse_alpha(ratings: list[dict[str, Any]], judgements: list[dict[str, Any]]) -> None:
    judgements[:ITEMS] = judge_like(RATED, agrees=0.2, row="b/merged")


def fewer_ratings(ratings: list[dict[str, Any]], judgements: list[dict[str, Any]]) -> None:
    del ratings[49:]


def other_order(ratings: list[dict[str, Any]], judgements: list[dict[str, Any]]) -> None:
    for row in judgements[ITEMS : ITEMS + 60]:
        row |= {"first": 1.0, "second": 0.0, "score": 0.5}


def unreadable(ratings: list[dict[str, Any]], judgements: list[dict[str, Any]]) -> None:
    for row in judgements[ITEMS : ITEMS + 6]:
        row["unparsable"] = 1


def length(ratings: list[dict[str, Any]], judgements: list[dict[str, Any]]) -> None:
    """The candidate wins where its answer is long, and loses where the lengths are equal."""
    for row in judgements[ITEMS:]:
        row["candidate_bytes"] = row["rival_bytes"] * (10 if row["score"] else 1)


def few_judged(ratings: list[dict[str, Any]], judgements: list[dict[str, Any]]) -> None:
    del judgements[ITEMS + 49 :]


@pytest.mark.parametrize(
    ("spoil", "because"),
    [
        (worse_alpha, "it does not agree enough with people"),
        (fewer_ratings, "people rated 49 of the pairs that it compared in this project, and 50 are wanted"),
        (other_order, "it gives the same verdict in both orders on 55% of the pairs, and 60% is wanted"),
        (unreadable, "2% of its replies could not be read, and at most 2% is wanted"),
        (length, "for answers of equal length, it would prefer 0%: it may like their length"),
        (few_judged, "it compared 49 pairs, and 50 are wanted"),
    ],
)
def test_what_disqualifies_a_judge(tmp_path: Path, spoil: Callable[..., None], because: str) -> None:
    ratings, judgements = judged_alone(tmp_path)
    spoil(ratings, judgements)
    judge = facts(required(compared(tmp_path, ratings, judgements), "judge"))
    assert not judge.may_decide and judge.because.startswith(because)


def test_a_judge_that_taught_the_model_decides_nothing(tmp_path: Path) -> None:
    sentence = (
        "The judge is the teacher of rows in training (big), and a model likes its own style. It decides nothing."
    )
    judge = facts(required(compared(tmp_path, *judged_alone(tmp_path), excluded=[sentence]), "judge"))
    assert not judge.may_decide and judge.because.endswith("and a model likes its own style")


@pytest.mark.parametrize(
    ("of_judge", "of_people", "qualifies"),
    [
        ((0.41, 0.21), None, True),
        ((0.41, 0.19), None, False),
        ((0.36, 0.1), (0.44, 0.2), True),
        ((0.36, 0.1), (0.46, 0.2), False),
        ((0.36, -0.1), (0.4, 0.2), False),
        ((0.05, 0.01), (0.05, -0.1), False),
    ],
)
def test_the_agreement_that_is_enough(
    of_judge: tuple[float, float], of_people: tuple[float, float] | None, qualifies: bool
) -> None:
    """Alpha of 0.4, or 80 % of that of people with each other, if it is above chance."""
    judged = [Judgement(float(number % 5 > 0), True, 0, 0.0) for number in range(100)]
    with_people, people = (
        Agreement(alpha[0], alpha[1], alpha[0] + 0.2, 60) if alpha else None for alpha in (of_judge, of_people)
    )
    found = why_not_qualified(judged, WinRate(0.8, 0.7, 0.9, 0.001), with_people, people)
    assert (found is None) is qualifies


def test_earlier_verdicts_of_the_judge_count_for_its_agreement(tmp_path: Path) -> None:
    """The rated pairs are older answers, which the judge compared before the retraining."""
    ratings, judgements = judged_alone(tmp_path)
    old = [{**row, "candidate_answer": "1" * 64} for row in judgements[:ITEMS]]
    rated = [{**row, "candidate_answer": "1" * 64} for row in ratings]
    (tmp_path / "earlier").mkdir()
    earlier = opinion_inputs(tmp_path / "earlier", (), old)["judgements"]
    inputs = score_all(tmp_path) | opinion_inputs(tmp_path, rated, judgements[ITEMS:])
    without = build(tmp_path / "without", inputs)
    assert not facts(required(without, "judge")).may_decide
    found = facts(required(build(tmp_path / "with", inputs | {"judgements.1": earlier}), "judge"))
    assert found.may_decide and opinion(without, "people") is None


def build(out: Path, inputs: dict[str, Path]) -> Comparison:
    """Build the artifact, and read it back."""
    out.mkdir()
    build_comparison(inputs, CONFIG, out)
    return Comparison.model_validate(json.loads((out / "comparison.json").read_text()))


def test_readers_of_a_comparison_see_each_pair_once(tmp_path: Path) -> None:
    inputs = score_all(tmp_path) | opinion_inputs(tmp_path, rate(FIFTY))
    measured = build(tmp_path / "out", inputs)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text.count("Answers of a/merged: preferred in 65 of 100 comparisons with base (5") == 1
    assert len(shown_opinions(measured)) == 1 and answer(ROW, 1) not in text


def test_an_opinion_replaces_the_check_against_the_incumbent(tmp_path: Path) -> None:
    today = {"plain": {"kind": "contender", "losses": None, "chrf": [50.0] * ITEMS}}
    made = {"today/contender_scores": scored(tmp_path / "today", today)}
    ratings = rate(mixed(50, 10), rival="today")
    for row in ratings:
        row["rival_answer"] = hash_of_answer(f"plain says {int(row['group'])}")
    config = {**CONFIG, "contenders": {"today": {"incumbent": True, "ends": None}}}
    measured = compare(score_all(tmp_path) | made | opinion_inputs(tmp_path, ratings), config)
    [check] = [claim for claim in measured.of_kind("replaces") if claim.row == ROW]
    assert (check.measure, check.holds, check.limit) == ("people", True, -0.05)
    assert label(measured, check) == "people's preference"


def test_a_clear_loss_that_nobody_confirmed_is_told() -> None:
    def unheard(named: bool = False, high: float = 0.4, may_decide: bool = False) -> bool:
        facts = OpinionFacts(rated=0, judged=100, may_decide=may_decide)
        known = {
            "kind": "opinion",
            "row": ROW,
            "rival": RIVAL,
            "measure": "judge",
            "verdict": verdict_of(0.2, high, 0.5),
        }
        compared: Any = SimpleNamespace(names_metric=named)
        return Comparison.is_unheard(compared, Claim(**known, facts=facts))

    assert unheard()
    assert not unheard(high=0.55)
    assert not unheard(may_decide=True)
    assert not unheard(named=True)
