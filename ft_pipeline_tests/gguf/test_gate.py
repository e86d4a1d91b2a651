"""What a GGUF file costs is a number with an interval, and the gate names the number that is too high."""

from typing import Any

import pytest

from ft_pipeline.gguf.gate import judge, summarize

LIMITS = {"max_loss_increase": 0.05, "max_kl": 0.02}


def records(increases: list[float], kl: float = 0.01, agrees: int = 0) -> list[dict[str, Any]]:
    """Records of as many conversations, with answers of 10 tokens. agrees: how many of them agree, first ones first."""
    return [
        {
            "group": f"conversation {number}",
            "answer_tokens": 10,
            "loss_sum": 20 + 10 * increase,
            "merged_loss_sum": 20.0,
            "kl_sum": 10 * kl,
            "agrees": number < agrees,
            "identical": False,
        }
        for number, increase in enumerate(increases)
    ]


def test_costs_are_per_token_with_a_paired_interval() -> None:
    costs = summarize(records([0.01, 0.02, 0.03, 0.02], agrees=3))
    assert costs["loss_increase"]["value"] == pytest.approx(0.02)
    assert 0 < costs["loss_increase"]["low"] < 0.02 < costs["loss_increase"]["high"] < 0.04
    assert costs["kl"]["value"] == pytest.approx(0.01)
    assert costs["agreement"]["value"] == 0.75 and costs["agreement"]["low"] < 0.6
    assert costs["identical"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.49, abs=0.01)}


def test_a_longer_answer_counts_more() -> None:
    long, short = records([0.04, 0.0])
    long |= {"answer_tokens": 30, "loss_sum": 20 + 30 * 0.04, "kl_sum": 0.3}
    assert summarize([long, short])["loss_increase"]["value"] == pytest.approx(0.03)


def test_questions_of_one_pattern_are_one_piece_of_evidence() -> None:
    rows = records([0.01, 0.01, 0.01, 0.03, 0.03, 0.03])
    alike = [row | {"cluster": f"test {number // 3}"} for number, row in enumerate(rows)]
    apart, together = (summarize(found)["loss_increase"] for found in (rows, alike))
    assert apart["value"] == pytest.approx(together["value"])
    assert together["high"] > apart["high"]


def test_only_agreement_is_measured_of_the_conversion() -> None:
    rows = [{key: row[key] for key in ("group", "agrees", "identical")} for row in records([0.0, 0.0], agrees=2)]
    assert summarize(rows).keys() == {"agreement", "identical"}


def test_a_file_within_the_limits_passes() -> None:
    check = judge({"q8_0": summarize(records([0.01, 0.012, 0.011]))}, {"q8_0": []}, LIMITS)
    assert (check["passed"], check["blocking"], check["failures"]) == (True, False, {"q8_0": []})


@pytest.mark.parametrize(
    ("rows", "rails", "message"),
    [
        # The mean is within the limit, and its upper bound is not.
        (records([0.0, 0.09, 0.0, 0.08]), [], "loss may be 0.1"),
        (records([0.01, 0.011, 0.01], kl=0.03), [], "KL from the merged model is 0.0300, more than max_kl 0.02"),
        (records([0.01, 0.011, 0.01]), ["repetition"], "breaks the rail repetition"),
        (records([0.2]), [], "loss may be 0.2000"),  # one conversation has no interval
    ],
)
def test_the_gate_says_which_number_is_too_high(rows: list[dict[str, Any]], rails: list[str], message: str) -> None:
    costs = {"q8_0": summarize(records([0.01, 0.011, 0.01])), "q2_k": summarize(rows)}
    check = judge(costs, {"q8_0": [], "q2_k": rails}, LIMITS)
    assert not check["passed"] and check["failures"]["q8_0"] == []
    assert message in check["message"] and message in check["failures"]["q2_k"][0]
