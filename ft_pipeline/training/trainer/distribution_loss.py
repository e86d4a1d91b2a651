"""The divergence of a student's token distributions from a teacher's, of which the most likely tokens are known.

The teacher's distribution is stored as its k most likely tokens and the probability of all others together. Both models
are compared over these k + 1 outcomes. With all tokens of the vocabulary this is the exact divergence; with fewer it
is a lower bound of it. Generalized knowledge distillation: Agarwal et al. 2024 (arXiv 2306.13649).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ft_pipeline.settings.distill import DivergenceName
from ft_pipeline.training.trainer.loss import answer_states, criterion_losses

_SMALLEST = 1e-9
"""The smallest probability of the teacher that is used. A reverse divergence from 0 would be infinite."""
_SLICE_ROWS = 64
"""Rows of the teacher's logits that are computed at a time."""


@dataclass(frozen=True)
class TopTokens:
    """The teacher's distribution at each position: its most likely tokens, and the rest."""

    ids: Tensor
    """[tokens, k], int64"""
    log_probabilities: Tensor
    """[tokens, k] (nats), the largest first"""
    rest: Tensor
    """[tokens]: the probability of all other tokens together"""

    def outcomes(self, part: slice, vocabulary: int) -> Tensor:
        """Return the log probabilities of the outcomes [tokens, k + 1], or [tokens, k] if there are no other tokens."""
        top = self.log_probabilities[part]
        if self.ids.shape[1] < vocabulary:
            top = torch.cat([top, self.rest[part, None].clamp_min(_SMALLEST).log()], 1)
        return top


@dataclass(frozen=True)
class Divergence:
    """Which divergence is minimized."""

    name: DivergenceName = "forward_kl"
    beta: float = 0.5
    """jsd: the teacher's weight in the mixture."""

    def of(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the divergence [tokens] (nats) of log probabilities [tokens, outcomes]."""
        if self.name == "forward_kl":
            return _kl(teacher, student)
        if self.name == "reverse_kl":
            return _kl(student, teacher)
        weights = teacher.new_tensor([self.beta, 1 - self.beta]).log()
        mixture = torch.logaddexp(teacher + weights[0], student + weights[1])
        return self.beta * _kl(teacher, mixture) + (1 - self.beta) * _kl(student, mixture)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first || second) [tokens]. An outcome of probability 0 adds nothing."""
    return (first.exp() * (first - second)).sum(1)


@dataclass(frozen=True)
class TeacherCriterion:
    """The criterion (loss.Criterion) of distillation."""

    teacher: TopTokens
    divergence: Divergence

    def losses(self, log_probabilities: Tensor, part: slice) -> Tensor:
        """Return the divergence of each token."""
        student, _ = self._outcomes(log_probabilities, part)
        return self.divergence.of(self.teacher.outcomes(part, log_probabilities.shape[1]), student)

    def gradient(self, log_probabilities: Tensor, part: slice) -> Tensor:
        """Return the gradient with respect to the logits.

        With g the gradient with respect to the log probabilities of the outcomes, that of a logit is g of its outcome,
        times its share of the outcome, minus its probability times the sum of g.
        """
        student, others = self._outcomes(log_probabilities, part)
        student.requires_grad_()
        with torch.enable_grad():
            divergence = self.divergence.of(self.teacher.outcomes(part, log_probabilities.shape[1]), student)
            (slopes,) = torch.autograd.grad(divergence.sum(), student)
        gradient = log_probabilities.exp_().mul_(-slopes.sum(1, keepdim=True))
        ids = self.teacher.ids[part]
        if others is not None:
            gradient += others.sub_(student.detach()[:, -1:]).exp_().mul_(slopes[:, -1:])
        return gradient.scatter_add_(1, ids, slopes[:, : ids.shape[1]])

    def _outcomes(self, log_probabilities: Tensor, part: slice) -> tuple[Tensor, Tensor | None]:
        """Return the student's log probabilities of the outcomes, and those of the tokens in the last outcome [tokens,
        vocabulary], −inf elsewhere; None if it has no tokens."""
        ids = self.teacher.ids[part]
        top = log_probabilities.gather(1, ids)
        if ids.shape[1] == log_probabilities.shape[1]:
            return top, None
        others = log_probabilities.scatter(1, ids, float("-inf"))
        return torch.cat([top, others.logsumexp(1, keepdim=True)], 1), others


def distribution_losses(model: Any, batch: dict[str, Tensor], teacher: TopTokens, divergence: Divergence) -> Tensor:
    """Return the divergence [tokens] (nats, fp32) at each trained token of a batch, row after row."""
    states, _ = answer_states(model, batch)
    return criterion_losses(model, states, TeacherCriterion(teacher, divergence))


def top_tokens(logits: Tensor, k: int) -> TopTokens:
    """Return the distributions that logits [tokens, vocabulary] describe. A few rows are widened to 32 bit at a time.

    k: the number of tokens that are kept; all of them if the vocabulary has fewer.
    """
    parts = [_top_of(rows, k) for rows in logits.split(_SLICE_ROWS)]
    return TopTokens(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _top_of(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    log_probabilities = torch.log_softmax(logits, 1, dtype=torch.float32)
    top, ids = log_probabilities.topk(min(k, logits.shape[1]), 1)
    others = log_probabilities.scatter_(1, ids, float("-inf"))
    return ids, top, others.exp_().sum(1)


def distribution_columns(logits: Tensor, k: int) -> dict[str, np.ndarray]:
    """Return the columns of a row of distributions for the logits [tokens, vocabulary] at an answer's tokens."""
    top = top_tokens(logits, k)
    return {
        "top_ids": top.ids.cpu().numpy().astype(np.int32).ravel(),
        "top_log_probabilities": top.log_probabilities.cpu().numpy().ravel(),
        "rest": top.rest.cpu().numpy(),
    }
