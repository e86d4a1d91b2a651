"""The verdict in a sentence, one measured situation each."""

import pytest

from ft_pipeline.decide.advise import Advice
from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.conclusion import Verdict
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.observations import observe_incumbent
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.claims import (
    Of,
    breach,
    having,
    kept,
    lacking,
    lead,
    not_worse,
    only,
    rail,
    unasked_probes,
    with_rows,
)
from ft_pipeline_tests.decide.rules import decide, desk_of, verdict
from ft_pipeline_tests.release.test_promotion import ALL, KINDS, LOSSES, candidates, champion, comparison

SETTINGS = PromotionSettings(min_test_rows=20)


def said(measured: Comparison, *, standing: str | None = None, tests: int = 0) -> Verdict:
    record = champion(standing) if standing else None
    return verdict(measured, decide(measured, ALL, SETTINGS, record, exposure=Exposure(count=tests)), standing)


def test_answers_that_are_worse_decide_nothing() -> None:
    check = not_worse("answers", "qlora", "few_shot", "chrf", -3.0, -5.0, 2.0)
    measured = having(comparison({"plain": 3.5, "few_shot": 3.4, "qlora": 2.0}), check)
    decision = decide(measured, candidates("qlora"), SETTINGS, None)
    assert not decision.move
    assert "its answers are not shown to be as good: chrF -3.0 (at least -5.0; -2 is the limit)" in decision.reasons[0]
    assert verdict(measured, decision, None).kind == "undecided"


def test_what_only_another_training_changes_is_not_a_matter_of_more_data() -> None:
    """A drop at the margin, of which no number of questions would tell, and a check of a training that failed."""
    measured = having(comparison(LOSSES), kept("qlora", 30, 6))
    found = verdict(measured, decide(measured, ALL, SETTINGS, None), None)
    assert found.kind == "train" and "a lower learning rate or fewer epochs" in found.sentence
    failed = {**ALL, "qlora": ALL["qlora"].model_copy(update={"gates": {"merge": False}})}
    measured = comparison({"plain": 2.0, "qlora": 1.5})
    found = verdict(measured, decide(measured, failed, SETTINGS, None), None)
    assert found.kind == "train" and "failed: correct what it names, and train again" in found.sentence


def some_repeat(row: str) -> Claim:
    """That it cannot be told whether too many of its answers repeat themselves."""
    return rail(row, 3, 0.03, 0.2, "open")


OPEN: dict[str, Of | None] = {
    "Forgetting cannot be told: 30 of 400 questions": lambda row: kept(row, 30, 15),
    "its general accuracy was not compared with that of its base model": None,
    "8% of its answers repeat themselves": some_repeat,
    "Nothing is known of the probes refuse: it was not asked": unasked_probes,
}


@pytest.mark.parametrize("named", OPEN)
@pytest.mark.parametrize("passages", [0, 2])
def test_what_cannot_be_told_of_the_tuned_model_is_named_though_a_prompt_becomes_champion(
    named: str, passages: int
) -> None:
    measured, made = with_rows(comparison(LOSSES), few_shot={"passages": passages}), OPEN[named]
    measured = having(measured, made("qlora")) if made else lacking(measured, "general")
    decision = decide(measured, ALL, SETTINGS, None)
    assert (decision.move, decision.name) == (True, "few_shot")
    found = verdict(measured, decision, None)
    assert (found.kind, found.row) == ("undecided" if "answers" in named else "measure", "qlora")
    assert found.sentence.startswith(f"Not decided yet: qlora: {named}")
    assert found.sentence.endswith(" Until then, few_shot is the champion.")
    assert said(measured, standing="few_shot") == found


def test_what_cannot_be_told_of_a_tuned_model_that_trails_decides_nothing() -> None:
    losses = {**LOSSES, "qlora": 3.25, "adapter": 3.26}
    found = said(having(comparison(losses), kept("qlora", 30, 15)))
    assert found.sentence.startswith(
        "Do not fine-tune; prompt it as few_shot: no tuned model is worth it. The lead of "
    )


def test_how_many_test_conversations_would_decide_is_said() -> None:
    """A lead of 1.5 standard errors on 40 conversations: at least one more, if the lead is larger; in the worst case it
    lies between 0 and 1 % of the loss, and 2.8 standard errors must fit into half of that."""
    measured = comparison({"plain": 3.0, "qlora": 2.9}, noise=0.1 * 1.96 / 1.5)
    measured = having(measured, measured.claims[0].model_copy(update={"p": 0.07}))
    found = verdict(measured, decide(measured, candidates("qlora"), SETTINGS, None), None)
    assert found.kind == "undecided"
    assert found.sentence == (
        "Not decided yet: the lead of qlora over plain on loss is 3.3 % (95 %: -1.0 to 7.7). Above 0 it would be used, "
        "below 1 % it is not worth a training; 41 to 11,000 test conversations in all would tell (80 %). For now, use "
        "the base model as it is."
    )


def test_a_lead_without_an_interval_says_nothing_of_how_many_would_decide() -> None:
    """A single conversation has a lead, and no spread."""
    measured = having(comparison({"plain": 3.0, "qlora": 2.9}), lead("qlora", "plain", 0.1, (None, None)))
    found = verdict(measured, decide(measured, candidates("qlora"), SETTINGS, None), None)
    assert found.kind == "undecided" and "would decide" not in found.sentence


@pytest.mark.parametrize("bad", ["qlora", "few_shot"])
def test_a_model_that_cannot_go_out_is_not_used(bad: str) -> None:
    measured = having(comparison({"plain": 3.45, "few_shot": 3.4, "qlora": 2.0}), breach(bad))
    found = said(measured)
    assert (found.kind, found.row) == ("undecided" if bad == "qlora" else "use_tuned", "qlora")
    if bad == "qlora":
        assert found.sentence == (
            "Not decided yet: the lead of qlora over few_shot on loss is 41.2 % (95 %: 38.2 to 44.1), but it cannot go "
            "out, because it fails: 50% of its answers repeat themselves (40% to 60%; at most 5% is wanted). For now, "
            "prompt it as few_shot."
        )


def test_a_model_that_forgets_is_not_used() -> None:
    measured = only(having(comparison(LOSSES), kept("qlora", 60, 5)), "base", "adapter", "merged")
    found = verdict(measured, decide(measured, candidates("qlora"), SETTINGS, None), None)
    assert found.kind == "undecided"
    assert "but it cannot go out, because it forgets: 60 of 400 questions were lost" in found.sentence


def with_incumbent(measured: Comparison, *checks: Claim, cost: float | None = 0.01) -> Comparison:
    today = Row(name="today", kind="contender", incumbent=True, ends="2027-01-14", cost_per_call=cost, scores={})
    own = {"cost_per_call": None if cost is None else 0.002}
    measured = with_rows(measured, **{row.name: own for row in measured.rows})
    return having(measured.changed(rows=[*measured.rows, today]), *checks)


def test_the_recommendation_compares_with_the_incumbent_whatever_the_verdict() -> None:
    checks = [
        not_worse("replaces", name, "today", "chrf", 1.0, low, 5.0) for name, low in (("qlora", -0.5), ("plain", 0.5))
    ]
    desk = desk_of(with_incumbent(comparison(LOSSES), *checks), {}, 50)
    assert observe_incumbent(desk, Advice("more_data", "")) == (
        "qlora is not worse than today, which ends on 2027-01-14: chrF: +1.000 (at least -0.500; -5 is the limit). "
        "1,000 answers cost 2.00 in place of 10.00."
    )
    assert observe_incumbent(desk_of(with_incumbent(comparison(LOSSES)), {}, 50), Advice("more_data", "")) is None


def test_only_what_is_in_use_or_becomes_so_replaces_the_incumbent() -> None:
    """few_shot is not worse than the incumbent, but no rule has chosen it."""
    measured = comparison({"plain": 3.05, "few_shot": 3.0, "qlora": 3.2})
    check = not_worse("replaces", "few_shot", "today", "exact_match", 0.0, -0.01, 0.05)
    found = said(with_incumbent(measured, check))
    assert found.kind == "prompt" and "Replace" not in found.sentence


def test_a_sound_model_is_looked_at_before_one_that_forgets() -> None:
    measured = comparison(
        {"plain": 3.5, "few_shot": 3.0, "full": 2.5, "qlora": 2.95}, kinds={**KINDS, "full": "merged"}
    )
    measured = having(measured, kept("full", 60, 5))
    both = candidates("full", "qlora")
    found = verdict(measured, decide(measured, both, SETTINGS, None), None)
    assert (found.kind, found.row) == ("undecided", "qlora")
