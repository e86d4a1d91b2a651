"""Metrics of one answer."""

import json

import pytest

from ft_pipeline.evaluation.metrics.definitions import METRICS, answer_metrics, metric_versions


def test_an_answer_equal_to_the_reference_gets_the_best_scores() -> None:
    assert answer_metrics("Please send your order number.", "Please send your order number.") == pytest.approx(
        {"chrf": 100.0, "rouge_l": 1.0, "exact_match": 1.0}
    )


def test_an_answer_that_shares_nothing_with_the_reference_scores_zero() -> None:
    zero = {"chrf": 0.0, "rouge_l": 0.0, "exact_match": 0.0}
    assert answer_metrics("abc def", "xyz") == zero
    assert answer_metrics("abc def", "") == zero


def test_exact_match_ignores_only_white_space() -> None:
    assert answer_metrics("Refund: 5 days", " Refund:  5\ndays ")["exact_match"] == 1.0
    assert answer_metrics("Refund: 5 days", "refund: 5 days")["exact_match"] == 0.0


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    # "send your number" of 5 and 4 words: precision 3/4, recall 3/5.
    metrics = answer_metrics("please send your order number", "send me your number")
    assert metrics["rouge_l"] == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))


def test_rouge_l_supports_other_scripts() -> None:
    assert answer_metrics("Где мой заказ?", "где мой заказ")["rouge_l"] == 1.0


def test_metrics_state_their_versions_and_directions() -> None:
    assert set(metric_versions()) == {"metrics", "lm-eval", "rouge-score", "sacrebleu"}
    assert METRICS["loss"].direction == "lower is better"
    assert METRICS["chrf"].direction == "higher is better"
    assert METRICS["length_ratio"].direction == "1 is best"
    json.dumps(answer_metrics("a", "b"))
