"""The log-likelihood of a target, computed without any shortcut."""

from typing import Any

import torch


def direct_log_likelihood(model: Any, context: list[int], target: list[int]) -> float:
    """One row, no padding, no cache, all logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + target])).logits[0]
    probabilities = logits[len(context) - 1 : -1].double().log_softmax(-1)
    return float(probabilities[range(len(target)), target].sum())
