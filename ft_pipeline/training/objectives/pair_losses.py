"""The losses of preference optimization: how a pair of answers, a preferred and a rejected one, trains a model.

A *score* is log π(y) − log π₀(y) in nats: how much more likely an answer is than under the reference model π₀. β times
the score is what DPO calls the reward of an answer. Names and formulas are those of TRL's DPOConfig.loss_type.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ft_pipeline.settings.preferences import DpoSettings, PairLoss


@dataclass(frozen=True)
class PairScores:
    """The scores of the answers of several pairs, and their lengths."""

    preferred: Tensor
    """Score [pairs] of the preferred answer, in nats, summed over its tokens."""
    rejected: Tensor
    preferred_tokens: Tensor
    """Trained tokens [pairs] of the preferred answer."""
    rejected_tokens: Tensor

    @property
    def leads(self) -> Tensor:
        """How much more the preferred answer gained than the rejected one [pairs], in nats."""
        return self.preferred - self.rejected


def _sigmoid(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Rafailov et al. 2023 (arXiv 2305.18290, equation 7), with the label smoothing of cDPO (Mitchell 2023)."""
    margins, smoothing = settings.beta * scores.leads, settings.label_smoothing
    return -(1 - smoothing) * functional.logsigmoid(margins) - smoothing * functional.logsigmoid(-margins)


def _robust(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Ray Chowdhury et al. 2024 (arXiv 2403.00409): `sigmoid` without bias, if a known share of pairs is reversed."""
    margins, smoothing = settings.beta * scores.leads, settings.label_smoothing
    right, reversed_ = functional.logsigmoid(margins), functional.logsigmoid(-margins)
    return (smoothing * reversed_ - (1 - smoothing) * right) / (1 - 2 * smoothing)


def _hinge(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Zhao et al. 2023 (SLiC, arXiv 2305.10425): no more gradient once the margin is 1."""
    return torch.relu(1 - settings.beta * scores.leads)


def _ipo(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Azar et al. 2023 (arXiv 2310.12036, equation 17), with scores per token, as its authors use it."""
    preferred = scores.preferred / scores.preferred_tokens.clamp(min=1)
    rejected = scores.rejected / scores.rejected_tokens.clamp(min=1)
    return (preferred - rejected - 1 / (2 * settings.beta)) ** 2


def _apo_zero(scores: PairScores, settings: DpoSettings) -> Tensor:
    """D'Oosterlinck et al. 2024 (arXiv 2408.06266, equation 7): the preferred answer becomes more likely, the rejected
    one less likely, each by itself."""
    return 1 - torch.sigmoid(settings.beta * scores.preferred) + torch.sigmoid(settings.beta * scores.rejected)


PAIR_LOSSES: Mapping[PairLoss, Callable[[PairScores, DpoSettings], Tensor]] = {
    "sigmoid": _sigmoid,
    "robust": _robust,
    "hinge": _hinge,
    "ipo": _ipo,
    "apo_zero": _apo_zero,
}


def pair_losses(scores: PairScores, settings: DpoSettings) -> Tensor:
    """Return the loss of each pair [pairs]."""
    return PAIR_LOSSES[settings.loss_type](scores, settings)
