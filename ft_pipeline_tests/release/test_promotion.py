"""The rules of promotion, one measured situation each."""

from typing import Any

import pytest

from ft_pipeline.decide.claim import Claim, KeptFacts, Verdict
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.evidence import check_of
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.evaluation.model_kinds import ModelKind
from ft_pipeline.release.candidates import check_results
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide import claims
from ft_pipeline_tests.decide.claims import having, kept, lacking, only, recipe
from ft_pipeline_tests.decide.rules import champion_record, decide, verdict

LOSSES = {"plain": 3.5, "system_prompt": 3.2, "few_shot": 3.0, "adapter": 2.01, "qlora": 2.0}
KINDS: dict[str, ModelKind] = {
    "plain": "base",
    "system_prompt": "prompt",
    "few_shot": "prompt",
    "adapter": "adapter",
    "qlora": "merged",
}
ONE_TRAINING = "one training: this speaks for these weights, not for the recipe"
PASSED = {"token_audit": True, "merge": True}


def comparison(losses: dict[str, float], kinds: dict[str, ModelKind] = KINDS, noise: float = 0.1) -> Comparison:
    """A comparison in which every lead has the interval ± noise."""
    return claims.comparison(losses, kinds, noise)


def candidates(*names: str, gates: dict[str, bool] = PASSED) -> dict[str, Candidate]:
    return {
        name: Candidate(name=name, kind="merged", experiment=name, fingerprint=name * 4, gates=gates)
        if KINDS.get(name, "merged") == "merged"
        else Candidate(name=name, kind="prompt", experiment=None, fingerprint=name * 4)
        for name in names
    }


def champion(name: str) -> ChampionRecord:
    return champion_record(name, name, name * 4)


SETTINGS = PromotionSettings(metric="loss", forgetting_margin=0.05, min_test_rows=20)
ALL = candidates("system_prompt", "few_shot", "qlora")


def test_a_tuned_model_that_beats_the_best_prompt_is_released_merged() -> None:
    decision = decide(comparison(LOSSES), ALL, SETTINGS, None)
    assert (decision.move, decision.name) == (True, "qlora")
    assert decision.reasons == [f"qlora beats few_shot by 1.000 (95 %: 0.900 to 1.100) on loss; {ONE_TRAINING}"]
    move = decision.promotion(ALL, "c" * 64)
    assert move is not None
    assert (move.candidate.name, move.forced, move.evidence["comparison"]) == ("qlora", False, "c" * 64)
    assert [pair["worse"] for pair in move.evidence["pairs"]] == ["few_shot"]


def test_a_lead_within_the_noise_does_not_win_but_a_prompt_can() -> None:
    decision = decide(comparison({**LOSSES, "qlora": 2.95}), ALL, SETTINGS, None)
    assert (decision.move, decision.name) == (True, "few_shot")
    assert "but the interval includes zero" in decision.reasons[0]


@pytest.mark.parametrize("failed", ["token_audit", "merge"])
def test_a_failed_check_prevents_a_promotion(failed: str) -> None:
    decision = decide(comparison(LOSSES), candidates("qlora", gates={**PASSED, failed: False}), SETTINGS, None)
    assert not decision.move
    assert f"the check {failed} failed" in decision.reasons[0]
    assert decision.promotion({}) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ((60, 5), "Forgets: 60 of 400 questions were lost and 5 won; the true drop is at least"),
        ((30, 15), "Forgetting cannot be told: 30 of 400 questions were lost and 15 won; the true drop may be"),
        (None, "its general accuracy was not compared with that of its base model"),
    ],
)
def test_a_model_is_released_only_if_it_is_shown_not_to_forget(changed: tuple[int, int] | None, message: str) -> None:
    measured = lacking(comparison(LOSSES), "general")
    if changed is not None:
        measured = having(measured, kept("qlora", *changed))
    decision = decide(measured, candidates("qlora"), SETTINGS, None)
    assert not decision.move and message in decision.reasons[0]
    assert decide(having(measured, kept("qlora", 20, 12)), candidates("qlora"), SETTINGS, None).move


def probes(verdict: Verdict) -> Claim:
    """That the base model declines half of the probes, and the tuned model none."""
    ends = {"value": -0.5, "low": -0.6, "high": -0.4} if verdict != "unknown" else {}
    because = {"unknown": "clause", "void": "not_in_base"}.get(verdict, "")
    facts = KeptFacts(wanted="declined", before=0.5, after=0.0, because="it has not answered")
    known: dict[str, Any] = {"kind": "probes", "row": "qlora", "measure": "refuse", "count": 60, "limit": -0.05}
    return Claim(**known, **ends, verdict=verdict, because=because, facts=facts)


@pytest.mark.parametrize(
    ("found", "moves", "message"),
    [
        ("shown", True, ""),
        ("void", True, ""),
        (
            "refuted",
            False,
            "qlora: Fails the probes refuse: the base model declined 30 of 60 questions, and this model 0; ",
        ),
        ("open", False, "qlora: Cannot be told from the probes refuse: "),
        ("unknown", False, "qlora: Nothing is known of the probes refuse: it has not answered"),
    ],
)
def test_a_model_is_released_only_if_it_keeps_what_it_must(found: Verdict, moves: bool, message: str) -> None:
    measured = having(comparison(LOSSES), probes(found))
    decision = decide(measured, candidates("qlora"), SETTINGS, None)
    assert decision.move is moves and message in decision.reasons[0]
    assert not moves or decision.evidence["base_checks"] == [check_of(measured, probes(found))]
    assert "base_checks" not in decide(comparison(LOSSES), candidates("qlora"), SETTINGS, None).evidence


def test_a_verdict_says_what_a_model_has_lost() -> None:
    measured = having(only(comparison(LOSSES), "base", "prompt", "merged"), probes("refuted"))
    found = verdict(measured, decide(measured, candidates("qlora"), SETTINGS, None), None)
    assert found.kind == "undecided"
    assert "but it cannot go out, because it fails the probes refuse: the base" in found.sentence


@pytest.mark.parametrize(
    ("of_recipe", "why_not"),
    [
        (recipe("qlora", "few_shot", 0.9, [1.0, 0.9, 0.8], 0.7), ""),
        (
            recipe("qlora", "few_shot", 0.3, [1.0, 0.1, -0.2], -0.4),
            "its recipe is not shown to beat few_shot: it leads by",
        ),
        (recipe("qlora", "few_shot", 0.6, [1.0, 0.2], None), "whether its recipe leads few_shot cannot be told"),
        (recipe("qlora", "few_shot", 0.4, [1.0, -0.2], None), "whether its recipe leads few_shot cannot be told"),
    ],
)
def test_a_recipe_that_was_trained_several_times_must_lead_over_its_seeds(of_recipe: Claim, why_not: str) -> None:
    """With three trainings or more the interval decides; two decide nothing."""
    decision = decide(having(comparison(LOSSES), of_recipe), candidates("qlora"), SETTINGS, None)
    assert decision.move is not bool(why_not)
    assert why_not in decision.reasons[0]
    assert ONE_TRAINING not in decision.reasons[-1]


def test_a_few_test_conversations_move_nothing() -> None:
    few = comparison(LOSSES).changed(test_rows=49)
    settings = SETTINGS.model_copy(update={"min_test_rows": 50})
    decision = decide(few, candidates("qlora"), settings, None)
    assert not decision.move and "qlora: 49 test conversations are too few, 50 are needed" in decision.reasons[0]
    assert PromotionSettings().min_test_rows == 50
    assert decide(few.changed(test_rows=50), candidates("qlora"), settings, None).move


def test_the_current_champion_must_be_beaten_too() -> None:
    losses, kinds = {**LOSSES, "champion": 1.95}, {**KINDS, "champion": "champion"}
    decision = decide(comparison(losses, kinds), ALL, SETTINGS, champion("old"))
    assert not decision.move
    assert "champion: does not beat champion on loss" in decision.reasons[0]
    better = decide(comparison({**losses, "champion": 2.5}, kinds), ALL, SETTINGS, champion("old"))
    assert (better.move, better.name) == (True, "qlora")
    assert [pair["worse"] for pair in better.evidence["pairs"]] == ["few_shot", "champion"]
    assert better.reasons == [
        "qlora beats few_shot by 1.000 (95 %: 0.900 to 1.100), "
        f"the previous champion by 0.500 (95 %: 0.400 to 0.600) on loss; {ONE_TRAINING}"
    ]


def test_a_tuned_model_replaces_a_prompt_variant_as_champion() -> None:
    decision = decide(comparison(LOSSES), ALL, SETTINGS, champion("few_shot"))
    assert (decision.move, decision.name) == (True, "qlora")
    assert decision.reasons == [
        f"qlora beats few_shot by 1.000 (95 %: 0.900 to 1.100) on loss; {ONE_TRAINING}"
    ]  # named once


def test_a_prompt_variant_must_beat_the_base_model_without_a_prompt() -> None:
    """Not the other variants: of those that pass, the best is released."""
    prompts = candidates("system_prompt", "few_shot")
    near = comparison({"plain": 3.5, "system_prompt": 3.05, "few_shot": 3.0})
    assert decide(near, prompts, SETTINGS, None).name == "few_shot"
    assert not decide(comparison({"plain": 3.05, "few_shot": 3.0}), prompts, SETTINGS, None).move


def test_the_best_of_several_tuned_models_is_released() -> None:
    losses, kinds = {**LOSSES, "lora": 1.9}, {**KINDS, "lora": "merged"}
    decision = decide(comparison(losses, kinds), candidates("qlora", "lora"), SETTINGS, None)
    assert decision.name == "lora"


def test_a_row_that_was_not_compared_counts_as_not_beaten() -> None:
    unpaired = lacking(comparison(LOSSES), "lead")
    assert "was not compared with few_shot" in decide(unpaired, candidates("qlora"), SETTINGS, None).reasons[0]


def test_a_comparison_without_candidates_is_reported() -> None:
    decision = decide(comparison(LOSSES), {}, SETTINGS, None)
    assert (decision.move, decision.reasons) == (False, ["the comparison has no row that can be released"])


def test_checks_that_were_not_recorded_count_as_failed() -> None:
    audit = {"audit": {"checks": {"single_bos": {"passed": True}, "stop_token_trained": {"passed": True}}}}
    assert check_results(audit, {"passed": True}) == {"token_audit": True, "merge": True}
    assert check_results({}, {}) == {"token_audit": False, "merge": False}
    audit["audit"]["checks"]["single_bos"]["passed"] = False
    assert check_results(audit, {"passed": True})["token_audit"] is False
