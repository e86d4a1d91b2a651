"""Do two models say the same? Held-out loss, and the divergence of their next-token distributions on answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ft_pipeline.training.batches import batches_by_length, collate
from ft_pipeline.training.loss import answer_states, logits_of

_BATCH = 8
_SLICE = 128
_KEPT_BYTES = 400_000_000
"""Of one model's logits: 4,000 tokens of a vocabulary of 50,000, enough for a mean to the third digit."""


@dataclass(frozen=True)
class Measurement:
    """What one model makes of the held-out answers."""

    loss: float
    """Nats per answer token, over all of them."""
    logits: Tensor
    """[tokens, vocabulary], 16 bit, on the CPU; as many tokens as memory allows, always in the same order."""


@torch.no_grad()
def measure(model: Any, rows: Sequence[dict[str, Any]], pad_token_id: int) -> Measurement:
    """Loss and logits of `model` on the trained tokens of `rows` (`input_ids`, `labels`)."""
    model.eval()
    total, count, kept = 0.0, 0, []
    limit = _KEPT_BYTES // (2 * model.config.get_text_config().vocab_size)
    for batch in batches_by_length(rows, _BATCH):
        tensors = {key: value.to(model.device) for key, value in collate(batch, pad_token_id).items()}
        hidden, targets = answer_states(model, tensors)
        for states, chosen in zip(hidden.split(_SLICE), targets.split(_SLICE), strict=True):
            logits = logits_of(model, states)
            total += float(functional.cross_entropy(logits.float(), chosen, reduction="sum"))
            kept.append(logits[: max(0, limit - count)].cpu())
            count += len(chosen)
    return Measurement(total / count, torch.cat(kept))


def kl_divergence(first: Tensor, second: Tensor) -> float:
    """Mean KL(first || second) in nats per token of two [tokens, vocabulary] sets of logits, computed in fp32."""
    total = 0.0
    for ours, theirs in zip(first.split(_SLICE), second.split(_SLICE), strict=True):
        p, q = ours.float().log_softmax(1), theirs.float().log_softmax(1)
        total += float((p.exp() * (p - q)).sum())
    return total / len(first)
