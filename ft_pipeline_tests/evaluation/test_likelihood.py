"""Batched log-likelihoods equal a direct computation."""

from typing import Any

import pytest
import torch

from ft_pipeline.evaluation.scoring import likelihood
from ft_pipeline.evaluation.scoring.likelihood import target_log_likelihoods
from ft_pipeline.models.decoding import prefix_cache as sharing
from ft_pipeline.models.decoding import target_logits
from ft_pipeline.models.decoding.prefix_cache import group_by_prefix
from ft_pipeline_tests.evaluation.likelihoods import direct_log_likelihood

PAIRS = [
    ([5, 9, 11, 40], [7, 8]),
    ([5], [30, 31, 32, 33]),
    ([100, 4, 77, 12, 60, 61, 62], [1]),
    ([5, 9, 11, 40], [90, 91, 92]),
]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batched_log_likelihoods_equal_the_direct_computation(wide_model: Any, batch_size: int) -> None:
    results = target_log_likelihoods(wide_model, PAIRS, batch_size=batch_size)
    assert [score.total for score in results] == pytest.approx(
        [direct_log_likelihood(wide_model, *pair) for pair in PAIRS], abs=1e-3
    )


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_shared_prefix_does_not_change_the_log_likelihoods(
    wide_model: Any, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_MIN_SAVED_TOKENS", 100)
    prefix = torch.randint(3, 400, (120,), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(prefix + context, target) for context, target in PAIRS] + PAIRS
    assert [length for length, _ in group_by_prefix([context for context, _ in pairs])] == [120, 0]
    results = target_log_likelihoods(wide_model, pairs, batch_size=batch_size)
    assert [score.total for score in results] == pytest.approx(
        [direct_log_likelihood(wide_model, *pair) for pair in pairs], abs=1e-3
    )


CHOICES = [
    ([9, 4, 7], [5]),
    ([9, 4, 7], [6, 8, 30]),
    ([3, 2], [7, 8]),
    ([9, 4, 7], [6, 9]),
    ([3, 2], [40]),
    ([9], [1, 2]),
]
"""Three targets after one context, two after another, and a pair alone."""


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("prefix_length", [0, 120])
def test_a_context_that_several_targets_follow_is_computed_once(
    wide_model: Any, batch_size: int, prefix_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_MIN_SAVED_TOKENS", 100)
    prefix = torch.randint(3, 400, (prefix_length,), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(prefix + context, target) for context, target in CHOICES]
    tokens: list[int] = []
    wide_model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    done: list[int] = []
    results = target_log_likelihoods(wide_model, pairs, batch_size=batch_size, report_done=done.append)
    computed = sum(tokens)
    assert [score.total for score in results] == pytest.approx(
        [direct_log_likelihood(wide_model, *pair) for pair in pairs], abs=1e-3
    )
    assert [len(score.log_probs) for score in results] == [len(target) for _, target in pairs]
    assert sum(done) == len(pairs)
    if batch_size == 8:  # the prefix; contexts of 3 and 2, padded; 5 targets of up to 2 further tokens; the pair alone
        assert computed == prefix_length + 2 * 3 + 5 * 2 + 2


def test_batches_are_limited_by_the_size_of_their_logits(wide_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_logits, "_MAX_LOGITS", 4 * wide_model.config.vocab_size)
    monkeypatch.setattr(likelihood, "_CHUNK_POSITIONS", 2)
    done: list[int] = []
    results = target_log_likelihoods(wide_model, PAIRS, batch_size=8, report_done=done.append)
    assert len(done) > 1
    assert sum(done) == len(PAIRS)
    assert [score.total for score in results] == pytest.approx(
        [direct_log_likelihood(wide_model, *pair) for pair in PAIRS], abs=1e-3
    )


def test_targets_that_greedy_decoding_would_write_are_marked(wide_model: Any) -> None:
    with torch.no_grad():
        likeliest = int(wide_model(input_ids=torch.tensor([[5, 9]])).logits[0, -1].argmax())
    less_likely = (likeliest + 1) % 400
    results = target_log_likelihoods(wide_model, [([5, 9], [likeliest]), ([5, 9], [less_likely])], batch_size=2)
    assert [score.is_greedy for score in results] == [True, False]
