"""What people's and a judge's opinions decide: promotions, the verdict and the first screen."""

from collections.abc import Mapping
from typing import Any, Literal

import pytest

from ft_pipeline.decide.advise import prompting_is_enough, tuning_wins
from ft_pipeline.decide.claim import Claim, OpinionFacts, verdict_of
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.conclusion import Verdict
from ft_pipeline.decide.evidence import who_decided
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.first_screen import NOT_READ, Light, lights, risks
from ft_pipeline.decide.promote import Court
from ft_pipeline.decide.ruling import ruling_about
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.opinions.agreement import Agreement
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.claims import having, not_worse, only, recipe
from ft_pipeline_tests.decide.rules import Decision, decide, desk_of, verdict
from ft_pipeline_tests.release.test_promotion import KINDS, LOSSES, candidates, champion, comparison

SETTINGS = PromotionSettings(min_test_rows=20)
TRAILS = {"plain": 3.5, "few_shot": 3.0, "qlora": 3.1}
"""Losses of a tuned model that is not ahead on the likelihood."""
ALPHA = Agreement(0.61, 0.42, 0.77, 60)
By = Literal["people", "judge"]


def opinion(
    win_rate: float = 0.68,
    p: float | None = 0.001,
    *,
    row: str = "qlora",
    rival: str = "few_shot",
    by: By = "people",
    may_decide: bool = True,
    low: float | None = None,
    high: float | None = None,
    **facts: Any,
) -> Claim:
    told: dict[str, Any] = {
        "rated": 60 if by == "people" else 0,
        "judged": 0 if by == "people" else 134,
        "alpha": ALPHA,
        "because": "enough pairs" if may_decide else "people rated 0 of the pairs",
        "may_decide": may_decide,
    }
    ends = win_rate - 0.09 if low is None else low, win_rate + 0.08 if high is None else high
    known: dict[str, Any] = {"row": row, "rival": rival, "measure": by, "value": win_rate, "p": p, "limit": 0.5}
    known |= {"low": ends[0], "high": ends[1], "verdict": verdict_of(*ends, 0.5)}
    return Claim(kind="opinion", **known, facts=OpinionFacts(**told | facts))


def measured(losses: Mapping[str, float], *claims: Claim, **values: Any) -> Comparison:
    return having(comparison(dict(losses)), *claims).changed(**values)


def decided(found: Comparison, standing: str | None = None, count: float = 0.0) -> Decision:
    names = [row.name for row in found.rows if row.kind in ("prompt", "merged")]
    record = champion(standing) if standing else None
    return decide(found, candidates(*names), SETTINGS, record, exposure=Exposure(count=count))


def said(found: Comparison, standing: str | None = None) -> Verdict:
    return verdict(found, decided(found, standing), standing)


def qlora(found: Comparison) -> Row:
    row = found.row("qlora")
    assert row is not None
    return row


def without_prompts(found: Comparison) -> Comparison:
    """The same, where only the tuned model may be released."""
    return only(found, "base", "adapter", "merged")


# --- promotion --------------------------------------------------------------------------------------------------------


def test_people_promote_a_model_whose_likelihood_is_not_better() -> None:
    found = decided(measured(TRAILS, opinion()))
    assert (found.move, found.name) == (True, "qlora")
    assert found.reasons[-1].startswith(
        "qlora is preferred in 68 of 100 comparisons with few_shot (59 to 76) by people, who rated 60 pairs blind; "
    )
    assert found.evidence["decided_by"] == {"few_shot": "people"} and found.evidence["p"] == 0.001
    assert found.evidence["opinions"][0]["alpha"]["alpha"] == 0.61


def test_people_stop_a_model_whose_likelihood_is_clearly_better() -> None:
    found = decided(measured(LOSSES, opinion(0.52, 0.35)))
    assert "qlora" in found.failed and found.name != "qlora"
    assert found.failed["qlora"] == [
        "is preferred in 52 of 100 comparisons with few_shot (43 to 60) by people, who rated 60 pairs blind, and half "
        "may be the truth"
    ]


def test_people_s_verdicts_are_tested_at_the_level_of_all_earlier_looks() -> None:
    found = decided(measured(TRAILS, opinion(0.65, 0.01)), count=3)
    assert not [test for test in found.tests if test.name == "qlora" and test.p != 0.01]
    assert "with several candidates and 3 earlier looks at these rows that may be luck: its p-value is 0.01" in str(
        found.failed["qlora"]
    )


def test_a_judge_decides_only_if_people_do_not() -> None:
    judge = opinion(0.3, 0.99, by="judge")
    assert decided(measured(TRAILS, opinion(), judge)).move
    assert "by a judge that compared 134 pairs" in decided(measured(LOSSES, judge)).failed["qlora"][0]


@pytest.mark.parametrize(("by", "asks"), [("judge", "rate 50 pairs"), ("people", "rate 30 more pairs")])
def test_a_clear_loss_that_is_not_confirmed_asks_for_ratings(by: By, asks: str) -> None:
    lost = opinion(0.3, 0.99, by=by, may_decide=False, rated=20 if by == "people" else 0)
    found = decided(measured(LOSSES, lost))
    assert found.name == "few_shot" and f"{asks} with `ft rate qlora few_shot`" in found.failed["qlora"][0]
    assert decided(measured(LOSSES, opinion(0.45, 0.8, by=by, may_decide=False))).name == "qlora"


def test_both_rivals_must_be_beaten_each_by_what_decides_there() -> None:
    found = measured(LOSSES, opinion(row="qlora", rival="few_shot"))
    decision = decided(found, standing="system_prompt")
    assert decision.move and decision.evidence["decided_by"] == {"few_shot": "people", "system_prompt": "loss"}
    assert "and beats the previous champion by 1.200" in decision.reasons[-1]
    over = opinion(0.5, 0.5, rival="system_prompt")
    assert decided(measured(LOSSES, opinion(), over), standing="system_prompt").name != "qlora"


def test_a_model_that_people_chose_comes_before_one_that_a_metric_chose() -> None:
    losses = {**LOSSES, "full": 1.5}
    found = comparison(losses, kinds={**KINDS, "full": "merged"})
    assert decided(found).name == "full"
    assert decided(having(found, opinion())).name == "qlora"


def test_promotion_by_hand_follows_the_same_rules() -> None:
    found = measured(LOSSES, opinion(0.52, 0.35))
    told = ruling_about(Court(found, candidates("few_shot", "qlora"), SETTINGS), qlora(found))
    assert len(told.lacks) == 1 and "is preferred in" in told.lacks[0]


def test_people_do_not_outweigh_a_rail_or_the_seeds() -> None:
    found = decided(measured(TRAILS, opinion(), recipe("qlora", "few_shot", 0.05, [0.1, -0.2, 0.3], -0.3)))
    assert "its recipe is not shown to beat few_shot" in found.failed["qlora"][0]


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_how_many_more_ratings_would_decide_is_said() -> None:
    near = opinion(0.59, 0.03, rival="plain", low=0.49, high=0.68)
    found = said(without_prompts(measured(LOSSES, near, test_items=400)))
    assert found.kind == "rate"
    assert "and half may be the truth; about 111 more ratings would decide. For now, " in found.sentence
    few = said(without_prompts(measured(LOSSES, near)))
    assert few.kind == "undecided" and "more ratings" not in few.sentence, "there are not so many test answers"


def unclear(*claims: Claim, **values: Any) -> Comparison:
    """A lead whose interval includes zero."""
    return without_prompts(measured({"plain": 3.0, "qlora": 2.95}, *claims, **{"test_items": 400, **values}))


def test_where_ratings_would_decide_they_are_asked_for() -> None:
    found = said(unclear())
    assert found.sentence.startswith(
        "Not decided yet: rate 50 pairs with `ft rate qlora plain`. The lead of qlora over plain on loss "
        "is 1.7 % (95 %: -1.7 to 5.0). Above 0 it would be used, below 1 % it is not worth a training; "
    )
    some = opinion(0.6, 0.2, rival="plain", may_decide=False, rated=20)
    assert "rate 30 more pairs with `ft rate qlora plain`" in said(unclear(some)).sentence


@pytest.mark.parametrize("values", [{"names_metric": True}, {"test_items": 40}])
def test_ratings_that_would_not_decide_are_not_asked_for(values: dict[str, Any]) -> None:
    assert "ft rate" not in said(unclear(**values)).sentence


def test_answers_that_are_not_shown_to_be_as_good_are_to_be_rated() -> None:
    check = not_worse("answers", "qlora", "plain", "chrf", -3.0, -5.0, 2.0)
    found = said(without_prompts(measured(LOSSES, check, test_items=400)))
    assert found.sentence.startswith("Not decided yet: rate 50 pairs with `ft rate qlora plain`.")


def test_a_judge_that_cannot_tell_leaves_it_to_people() -> None:
    judge = opinion(0.56, 0.06, rival="plain", by="judge")
    found = said(without_prompts(measured(LOSSES, judge, test_items=400)))
    assert found.sentence.startswith(
        "Not decided yet: rate 50 pairs with `ft rate qlora plain`. qlora is preferred in 56 of 100 comparisons with "
        "plain (47 to 64) by a judge that compared 134 pairs, and half may be the truth"
    )
    assert found.basis.startswith(
        "Trained once, tested on 40 conversations. Decided by a judge that compared 134 pairs. It agrees with people:"
    )


def test_the_incumbent_is_replaced_by_the_word_of_people() -> None:
    today = Row(name="today", kind="contender", incumbent=True, scores={})
    check = not_worse("replaces", "qlora", "today", "people", 0.08, -0.01, 0.05)
    found = measured(LOSSES, opinion(0.58, 0.03, rival="today"), check)
    replaced = said(found.changed(rows=[*found.rows, today]))
    assert replaced.sentence == (
        "Replace today by qlora: it is not worse. people's preference: +0.080 (at least -0.010; -0.05 is the limit)."
    )
    assert "Decided by people, who rated 60 pairs blind." in replaced.basis


def test_ratings_may_also_decide_about_the_present_model() -> None:
    found = measured({"plain": 3.5, "few_shot": 3.0, "qlora": 2.95}, test_items=400)
    prompt = said(found, standing="few_shot")
    assert prompt.sentence.startswith(
        "Not decided yet: rate 50 pairs with `ft rate qlora few_shot`. The lead of qlora over "
    )
    losses, kinds = {"plain": 3.5, "qlora": 3.0, "full": 2.95}, {**KINDS, "full": "merged"}
    stays = said(comparison(losses, kinds=kinds).changed(test_items=400), standing="qlora")
    assert stays.kind == "keep" and "people" not in stays.basis
    assert stays.sentence.endswith(" To decide between them, rate 50 pairs with `ft rate full qlora`.")


# --- the first screen -------------------------------------------------------------------------------------------------


def light(*opinions: Claim) -> Light:
    found = measured(LOSSES, *opinions)
    return lights(found, qlora(found))[-1]


@pytest.mark.parametrize(
    ("share", "rated", "color"),
    [
        (Score(1.0, 0.94, 1.0), 60, "green"),
        (Score(1.0, 0.92, 1.0), 45, "amber"),
        (Score(0.93, 0.84, 0.97), 60, "amber"),
        (Score(0.7, 0.57, 0.8), 60, "red"),
    ],
)
def test_the_share_of_answers_that_can_go_out_has_a_light(share: Score, rated: int, color: str) -> None:
    found = light(opinion(can_go_out=share, rated=rated))
    assert found.color == color
    assert found.detail.startswith(f"an answer can go out in {share.value * rated:.0f} of {rated} rated pairs (")


def test_answers_that_only_a_judge_read_count_as_unread() -> None:
    assert light() == NOT_READ and light(opinion(by="judge")) == NOT_READ


def of_qlora(found: Comparison) -> list[str]:
    return risks(found.changed(test_rows=400), qlora(found))


def test_answers_that_nobody_read_are_a_risk() -> None:
    asks = "Nobody has read the answers: rate 50 pairs with `ft rate qlora few_shot`."
    assert asks in of_qlora(measured(LOSSES))
    assert asks in of_qlora(measured(LOSSES, opinion(by="judge")))
    assert asks not in of_qlora(measured(LOSSES, opinion(can_go_out=Score(1.0, 0.9, 1.0))))


def test_a_clear_loss_by_a_judge_is_a_risk() -> None:
    lost = opinion(0.3, 0.99, by="judge", may_decide=False)
    assert any("preferred in 30 of 100 comparisons with few_shot" in line for line in of_qlora(measured(LOSSES, lost)))


# --- records and the recommendation -----------------------------------------------------------------------------------


def test_a_record_says_who_decided() -> None:
    evidence = decided(measured(LOSSES, opinion()), standing="system_prompt").evidence
    assert who_decided(evidence) == [
        "Against few_shot, the decision was that of people, who rated 60 pairs blind; agreement 0.61 (Krippendorff's "
        "alpha, 0.42 to 0.77; 60 pairs).",
        "Against system_prompt, the metric loss decided.",
    ]
    check = not_worse("answers", "qlora", "few_shot", "chrf", 1.0, 0.5, 2.0)
    two = decided(measured(LOSSES, check)).evidence
    assert who_decided(two) == ["Against few_shot, two keys decided."]
    assert who_decided({"metric": "loss"}) == []


def test_the_recommendation_follows_people() -> None:
    won = desk_of(measured(TRAILS, opinion()), {}, 20)
    assert prompting_is_enough(won) is None
    advice = tuning_wins(won)
    reason = advice.reason if advice else ""
    assert "Tuning pays off: qlora beats the best use of its base model. Answers of qlora: preferred in 68" in reason
    lost = desk_of(measured(LOSSES, opinion(0.5, 0.5)), {}, 20)
    found = prompting_is_enough(lost)
    assert found is not None and found.reason.startswith("The answers of qlora are not shown to be")
