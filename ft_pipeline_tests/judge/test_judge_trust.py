"""Which judges may not decide, and the numbers by which a judge is trusted."""

from typing import Any

import numpy as np
import pytest

from ft_pipeline.decide.build import build
from ft_pipeline.judge.judged_pairs import rivals_by_candidate
from ft_pipeline.judge.judgements import model_key, reasons_to_exclude
from ft_pipeline.judge.verdicts import length_adjusted, report_on
from ft_pipeline_tests.evaluation.scored import LOOP, NOISE, scored


def judgement(
    first: float = 0.5, second: float = 0.5, ours: int = 100, theirs: int = 100, **more: Any
) -> dict[str, Any]:
    row = {"group": "g", "candidate_answer": "a", "rival_answer": "b", "unparsable": 0}
    lengths = {"candidate_bytes": ours, "rival_bytes": theirs}
    return {**row, "first": first, "second": second, "score": (first + second) / 2, **lengths, **more}


def test_without_verdicts_nothing_is_claimed() -> None:
    report = report_on([])
    assert report["judged"] == 0
    assert [key for key, value in report.items() if value is None] == [
        "win_rate",
        "same_in_both_orders",
        "first_position_wins",
        "unparsable",
        "length_adjusted",
    ]


def test_the_numbers_of_a_judge() -> None:
    rows = [
        judgement(1.0, 1.0, group="1"),  # first position wins, then loses
        judgement(1.0, 0.0, group="2"),  # it wins twice
        judgement(0.5, 0.0, group="3", unparsable=1),
        judgement(0.5, 0.5, group="4", rival_answer="a"),
    ]
    report = report_on(rows)
    assert (report["judged"], report["identical"]) == (4, 1)
    assert report["win_rate"]["value"] == pytest.approx((1 + 0.5 + 0.25 + 0.5) / 4)
    assert report["same_in_both_orders"] == pytest.approx(1 / 3)
    assert report["first_position_wins"]["value"] == pytest.approx(4 / 5)
    assert report["unparsable"] == pytest.approx(1 / 6)
    assert report["similar_length"]["judged"] == 4


@pytest.mark.parametrize(
    ("ours", "theirs", "similar"), [(100, 120, True), (120, 100, True), (100, 126, False), (0, 1, False)]
)
def test_similar_lengths(ours: int, theirs: int, similar: bool) -> None:
    assert report_on([judgement(ours=ours, theirs=theirs)])["similar_length"]["judged"] == int(similar)


def test_a_win_rate_that_is_only_length_is_adjusted_to_half() -> None:
    """Scores that follow the length and, apart from that, prefer nobody."""
    draws = np.random.default_rng(1)
    ratios = draws.normal(0.4, 0.3, 400)  # the candidate's answers are longer
    rows = []
    for number, ratio in enumerate(ratios):
        score = float(np.clip(0.5 + 0.4 * ratio + draws.normal(0, 0.05), 0, 1))
        rows.append(judgement(score, score, round(1000 * float(np.exp(ratio))), 1000, group=str(number)))
    win_rate = report_on(rows)["win_rate"]
    assert win_rate["low"] > 0.6
    in_clusters = [
        row | {"cluster": f"{number // 20}"} for number, row in enumerate(sorted(rows, key=lambda row: row["score"]))
    ]
    assert report_on(in_clusters)["win_rate"]["low"] < win_rate["low"]
    adjusted = length_adjusted(rows)
    assert adjusted == pytest.approx(0.5, abs=0.02)
    same_length = [judgement(1.0, 0.5, group=str(number)) for number in range(5)]
    assert length_adjusted(same_length) == 0.75  # without a difference of length there is nothing to adjust


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "gpt-4o-mini"),
        ("org/model@0123abc", "model:latest"),
        ("org/Model-GGUF", "model"),
        ("model-q4_k_m", "model"),
        ("/models/ours (0123abcd)", "ours"),
    ],
)
def test_names_of_one_model(first: str, second: str) -> None:
    assert model_key(first) == model_key(second)


@pytest.mark.parametrize(
    ("first", "second"), [("gpt-4o", "gpt-4o-mini"), ("qwen2.5-7b", "qwen2.5-14b"), ("a/x", "a/y")]
)
def test_names_of_two_models(first: str, second: str) -> None:
    assert model_key(first) != model_key(second)


def test_a_teacher_and_a_base_model_may_not_decide() -> None:
    others = {"the teacher of rows in training": ["big-teacher"], "the base model of a compared model": ["org/small"]}
    assert reasons_to_exclude(["another"], others) == []
    assert reasons_to_exclude(["Big-Teacher"], others) == [
        "The judge is the teacher of rows in training (big-teacher), and a model likes its own style. "
        "Its verdicts decide nothing."
    ]
    assert len(reasons_to_exclude(["router", "small:latest"], others)) == 1  # a name that its replies may have


def test_only_candidates_that_a_promotion_would_test_are_judged(tmp_path: Any) -> None:
    """The merged model in place of its adapter, no model in breach of a rail, and the base as the rival of prompts."""
    row = {"losses": [2.0] * 40, "nats": [0.5 + noise / 10 for noise in NOISE]}
    tuned = {"technique": "lora", **row}
    worse = {**row, "nats": [0.9 + noise / 10 for noise in NOISE]}
    inputs = {
        "a/prompt_baseline": scored(
            tmp_path / "base", {"plain": {"kind": "base", **worse}, "brief": {"kind": "prompt", **row}}
        ),
        "a/scores": scored(
            tmp_path / "a", {"adapter": {"kind": "adapter", **tuned}, "merged": {"kind": "merged", **tuned}}
        ),
        "b/scores": scored(tmp_path / "b", {"merged": {"kind": "merged", **tuned, "answer": LOOP}}),
        "champion/scores": scored(tmp_path / "c", {"merged": {"kind": "merged", **tuned}}),
    }
    champion = {"name": "old/merged", "experiment": "old", "fingerprint": "f"}
    pairs = rivals_by_candidate(build(inputs, {"primary_metric": "auto", "champion": champion}))
    assert sorted(pairs) == [
        ("a/merged", "brief"),
        ("a/merged", "champion"),
        ("brief", "base"),
        ("brief", "champion"),
    ]
