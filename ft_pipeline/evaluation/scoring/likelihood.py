"""Compute log-likelihoods of targets in batches."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ft_pipeline.models.decoding.target_logits import Pair, read_targets


class TargetScore(NamedTuple):
    """The likelihood of a target after its context."""

    log_probs: list[float]
    """Log probability of each target token, in nats."""
    is_greedy: bool
    """Whether greedy decoding would write the target."""

    @property
    def total(self) -> float:
        """Log probability of the whole target, in nats."""
        return math.fsum(self.log_probs)


_CHUNK_POSITIONS = 512
"""Positions that are widened to 32 bit at a time."""


def target_log_likelihoods(
    model: Any, pairs: Sequence[Pair], *, batch_size: int, report_done: Callable[[int], None] = lambda done: None
) -> list[TargetScore]:
    """Return the score of each pair.

    report_done: called with the number of pairs in each finished batch.
    """
    return read_targets(model, pairs, _score_row, batch_size=batch_size, report_done=report_done)


def _score_row(logits: torch.Tensor, target: list[int]) -> TargetScore:
    """Return the result of one row. logits: shape (target tokens, vocabulary), the prediction of each target token."""
    target_ids = torch.tensor(target, device=logits.device)
    log_probs: list[float] = []
    for chunk, chunk_ids in zip(logits.split(_CHUNK_POSITIONS), target_ids.split(_CHUNK_POSITIONS), strict=True):
        chunk_logits = chunk.float()
        target_logits = chunk_logits.gather(1, chunk_ids[:, None]).squeeze(1)
        log_probs += (target_logits - chunk_logits.logsumexp(dim=-1)).tolist()
    return TargetScore(log_probs, bool((logits.argmax(dim=-1) == target_ids).all()))
