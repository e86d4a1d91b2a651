"""The rules of promotion, one measured situation each."""

from dataclasses import replace

import pytest
from scipy.special import ndtr

from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.model_kinds import ModelKind
from ft_pipeline.release.candidates import check_results
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.evaluation.scored import forgetting
from ft_pipeline_tests.version1.base_check_records import BaseCheck, BaseVerdict
from ft_pipeline_tests.version1.lead_records import LeadTest, PairedDifference, RecipeLead
from ft_pipeline_tests.version1.records import Comparison
from ft_pipeline_tests.version1.row_records import ComparisonRow, Forgetting
from ft_pipeline_tests.version1.rules import decide, verdict

LOSSES = {"plain": 3.5, "system_prompt": 3.2, "few_shot": 3.0, "adapter": 2.01, "qlora": 2.0}
KINDS: dict[str, ModelKind] = {
    "plain": "base",
    "system_prompt": "prompt",
    "few_shot": "prompt",
    "adapter": "adapter",
    "qlora": "merged",
}
KEPT = forgetting(0)
ONE_TRAINING = "one training: this speaks for these weights, not for the recipe"
PASSED = {"token_audit": True, "merge": True}


def comparison(
    losses: dict[str, float],
    kinds: dict[str, ModelKind] = KINDS,
    noise: float = 0.1,
    forgetting_of: dict[str, Forgetting] | None = None,
) -> Comparison:
    """A comparison in which every difference has the interval ± noise."""
    rows = [
        ComparisonRow(
            name=name,
            kind=kinds[name],
            scores={"loss": Score(loss, loss - noise, loss + noise)},
            general={"accuracy": 0.5, "loss": 3.0},
            forgetting=(forgetting_of or {}).get(name, KEPT) if kinds[name] == "merged" else None,
        )
        for name, loss in losses.items()
    ]
    pairs = [
        PairedDifference(better, worse, "loss", lead, lead - noise, lead + noise)
        for better in losses
        for worse in losses
        if (lead := losses[worse] - losses[better]) > 0
    ]
    tests = [LeadTest(pair.better, pair.worse, float(ndtr(-1.96 * pair.difference / noise))) for pair in pairs]
    return Comparison(test_rows=40, test_items=40, primary_metric="loss", rows=rows, pairs=pairs, lead_tests=tests)


def candidates(*names: str, gates: dict[str, bool] = PASSED) -> dict[str, Candidate]:
    return {
        name: Candidate(name, "merged", name, name * 4, gates=gates)
        if KINDS.get(name, "merged") == "merged"
        else Candidate(name, "prompt", None, name * 4)
        for name in names
    }


def champion(name: str) -> ChampionRecord:
    return ChampionRecord(
        1, name, "merged", name, name * 4, {}, "2026-01-01T00:00:00+00:00", "better", False, None, None, {}
    )


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
    ("result", "message"),
    [
        (forgetting(60, 5), "Forgets: 60 of 400 questions were lost and 5 won; the true drop is at least"),
        (
            forgetting(30, 15),
            "Forgetting cannot be told: 30 of 400 questions were lost and 15 won; the true drop may be",
        ),
        (None, "its general accuracy was not compared with that of its base model"),
    ],
)
def test_a_model_is_released_only_if_it_is_shown_not_to_forget(result: Forgetting | None, message: str) -> None:
    measured = comparison(LOSSES)
    measured = replace(measured, rows=[replace(row, forgetting=result) for row in measured.rows])
    decision = decide(measured, candidates("qlora"), SETTINGS, None)
    assert not decision.move and message in decision.reasons[0]
    assert decide(
        comparison(LOSSES, forgetting_of={"qlora": forgetting(20, 12)}), candidates("qlora"), SETTINGS, None
    ).move


def probes(result: BaseVerdict) -> BaseCheck:
    """The check of probes that the base model declines half of, and the tuned model none."""
    return BaseCheck(
        kind="probes",
        name="refuse",
        verdict=result,
        margin=0.05,
        wanted="declined",
        count=60,
        before=0.5,
        after=0.0,
        low=0.4,
        high=0.6,
        because="it has not answered",
    )


@pytest.mark.parametrize(
    ("result", "moves", "message"),
    [
        ("kept", True, ""),
        ("not in base", True, ""),
        (
            "lost",
            False,
            "qlora: Fails the probes refuse: the base model declined 30 of 60 questions, and this model 0; ",
        ),
        ("cannot be told", False, "qlora: Cannot be told from the probes refuse: "),
        ("unknown", False, "qlora: Nothing is known of the probes refuse: it has not answered"),
    ],
)
def test_a_model_is_released_only_if_it_keeps_what_it_must(result: BaseVerdict, moves: bool, message: str) -> None:
    check = probes(result)
    measured = comparison(LOSSES)
    measured = replace(measured, rows=[replace(row, base_checks=[check]) for row in measured.rows])
    decision = decide(measured, candidates("qlora"), SETTINGS, None)
    assert decision.move is moves and message in decision.reasons[0]
    assert not moves or decision.evidence["base_checks"] == [check.to_json()]
    assert "base_checks" not in decide(comparison(LOSSES), candidates("qlora"), SETTINGS, None).evidence


def test_a_verdict_says_what_a_model_has_lost() -> None:
    check = probes("lost")
    measured = comparison(LOSSES)
    rows = [replace(row, base_checks=[check] if row.name == "qlora" else []) for row in measured.rows]
    measured = replace(measured, rows=[row for row in rows if row.name != "adapter"])
    decision = decide(measured, candidates("qlora"), SETTINGS, None)
    found = verdict(measured, decision, None)
    assert found.kind == "undecided"
    assert "but it cannot go out, because it fails the probes refuse: the base" in found.sentence


def recipe(lead: float, *leads: float, lower: float | None = None) -> RecipeLead:
    return RecipeLead("qlora", "few_shot", len(leads), leads, lead, lower, lead + 0.1, lower)


@pytest.mark.parametrize(
    ("of_recipe", "why_not"),
    [
        (recipe(0.9, 1.0, 0.9, 0.8, lower=0.7), ""),
        (recipe(0.3, 1.0, 0.1, -0.2, lower=-0.4), "its recipe is not shown to beat few_shot: it leads by"),
        (recipe(0.6, 1.0, 0.2), "whether its recipe leads few_shot cannot be told"),
        (recipe(0.4, 1.0, -0.2), "whether its recipe leads few_shot cannot be told"),
    ],
)
def test_a_recipe_that_was_trained_several_times_must_lead_over_its_seeds(of_recipe: RecipeLead, why_not: str) -> None:
    """With three trainings or more the interval decides; two decide nothing."""
    decision = decide(replace(comparison(LOSSES), recipe_leads=[of_recipe]), candidates("qlora"), SETTINGS, None)
    assert decision.move is not bool(why_not)
    assert why_not in decision.reasons[0]
    assert ONE_TRAINING not in decision.reasons[-1]


def test_a_few_test_conversations_move_nothing() -> None:
    few = replace(comparison(LOSSES), test_rows=49)
    settings = SETTINGS.model_copy(update={"min_test_rows": 50})
    decision = decide(few, candidates("qlora"), settings, None)
    assert not decision.move and "qlora: 49 test conversations are too few, 50 are needed" in decision.reasons[0]
    assert PromotionSettings().min_test_rows == 50
    assert decide(replace(few, test_rows=50), candidates("qlora"), settings, None).move


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
    unpaired = replace(comparison(LOSSES), pairs=[])
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
