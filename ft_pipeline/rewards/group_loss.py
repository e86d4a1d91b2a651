"""The loss of a group of answers to one prompt: answers with a higher reward than their group become more likely.

With advantages A = (reward − mean of the group) / standard deviation of the group, the loss of a token of an answer is
−A · π/π_old + β · KL, Shao et al. 2024 (arXiv 2402.03300, equation 3). Each generation is used for one update, so that
π/π_old is 1 where the gradient is computed, and there is nothing to clip. The KL to the start is estimated by
exp(d) − d − 1 with d = log π₀ − log π (Schulman 2020).
"""

import torch
from torch import Tensor

from ft_pipeline.rewards.settings import GrpoSettings

_SMALLEST_DEVIATION = 1e-4
"""Added to the standard deviation of the rewards of a group."""


def advantages(rewards: Tensor, scale: str) -> Tensor:
    """Return the advantage of each answer [prompts, answers] from its reward. All of them are 0 in a group whose
    rewards are equal: it has no signal.

    scale: as `grpo.scale_rewards`.
    """
    centered = rewards - rewards.mean(1, keepdim=True)
    centered = centered.masked_fill(~has_signal(rewards)[:, None], 0.0)  # a mean is rounded
    if scale == "none":
        return centered
    return centered / (rewards.std(1, keepdim=True) + _SMALLEST_DEVIATION)


def has_signal(rewards: Tensor) -> Tensor:
    """Return whether the rewards of each group [prompts, answers] differ: [prompts]."""
    return rewards.amax(1) > rewards.amin(1)


def token_weight(settings: GrpoSettings, tokens: int) -> float:
    """Return the weight of each token of an answer with this many tokens."""
    return {"dapo": 1.0, "grpo": 1 / tokens, "dr_grpo": 1 / settings.max_new_tokens}[settings.loss_type]


def count_items(settings: GrpoSettings, lengths: list[int]) -> int:
    """Return the part of some answers in what the summed loss of a step is divided by. lengths: the tokens of each
    answer in the loss."""
    return sum(lengths) if settings.loss_type == "dapo" else len(lengths)


def kl_to_start(policy: Tensor, start: Tensor) -> Tensor:
    """Return the estimated KL(π || π₀) of each token, from log probabilities (nats) of the policy and of the start."""
    difference = start - policy
    return difference.exp() - difference - 1


def token_objective(policy: Tensor, token_advantages: Tensor, kl: Tensor | None, beta: float) -> Tensor:
    """Return the loss of each token [tokens]. policy: log probabilities with gradients (nats)."""
    loss = -token_advantages * torch.exp(policy - policy.detach())
    return loss if kl is None else loss + beta * kl
