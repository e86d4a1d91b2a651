"""Direct preference optimization: make the preferred answer more likely than the rejected one, relative to a reference
model.

loss = −log σ(β·((log π(y⁺) − log π(y⁻)) − (log π₀(y⁺) − log π₀(y⁻)))), Rafailov et al. 2023 (arXiv 2305.18290,
equation 7). The reference π₀ is the model that training starts from. Its part is computed once, before the first step,
so that no second model is in memory. Label smoothing as in cDPO (Mitchell 2023).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ft_pipeline.models.compute_dtype import computing
from ft_pipeline.settings.experiment import DpoSettings
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.expert_balance import balance_of
from ft_pipeline.training.trainer.loss import sequence_log_probabilities
from ft_pipeline.training.trainer.token_trainer import Rows, TokenTrainer, evaluating


def collate_pairs(rows: Sequence[dict[str, Any]], pad_token_id: int | None) -> dict[str, Tensor]:
    """Return batches.collate of 2 × pairs rows, the preferred answers first, and `reference` [pairs]: how much likelier
    (nats) the preferred answer is for the reference model."""
    rejected = [{"input_ids": pair["rejected_ids"], "labels": pair["rejected_labels"]} for pair in rows]
    return {
        **collate([*rows, *rejected], pad_token_id),
        "reference": torch.tensor([pair["reference"] for pair in rows], dtype=torch.float32),
    }


def with_reference(model: Any, pairs: Rows, pad_token_id: int | None, batch_size: int) -> list[dict[str, Any]]:
    """Return the pairs with `reference`, computed by the current model. Its mode (train, eval) is restored."""
    order = sorted(range(len(pairs)), key=lambda index: -_length(pairs[index]))
    leads: dict[int, float] = {}
    with evaluating(model):
        for begin in range(0, len(order), batch_size):
            part = order[begin : begin + batch_size]
            batch = collate_pairs([{**pairs[index], "reference": 0.0} for index in part], pad_token_id)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            leads.update(zip(part, _leads(model, batch).tolist(), strict=True))
    return [{**pair, "reference": leads[index]} for index, pair in enumerate(pairs)]


def pair_losses(leads: Tensor, reference: Tensor, settings: DpoSettings) -> Tensor:
    """Return the loss of each pair [pairs]. `leads` and `reference`: how much likelier (nats) the preferred answer is
    for the model and for the reference."""
    margin = settings.beta * (leads - reference)
    smoothing = settings.label_smoothing
    return -(1 - smoothing) * functional.logsigmoid(margin) - smoothing * functional.logsigmoid(-margin)


class PreferenceTrainer(TokenTrainer):
    """TokenTrainer on pairs that have their `reference`. Losses are per pair."""

    columns = ("input_ids", "labels", "rejected_ids", "rejected_labels", "reference")
    lengths_of = ("input_ids", "rejected_ids")
    measures = ("eval_accuracy",)
    """The share of pairs whose preferred answer gained on the rejected one."""
    collate = staticmethod(collate_pairs)

    def __init__(self, *args: Any, dpo: DpoSettings) -> None:
        self._dpo = dpo
        super().__init__(*args)

    def summed_loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Return the summed loss over the pairs of a batch, their number, and how many gained."""
        with balance_of(model) as balance:
            leads, reference = _leads(model, batch), batch["reference"]
        gained = int((leads > reference).sum())
        total = pair_losses(leads, reference, self._dpo).sum() + len(reference) * sum(balance)
        return total, len(reference), gained

    def items(self, batch: dict[str, Tensor]) -> int:
        return len(batch["reference"])


def _leads(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return how much likelier (nats) each preferred answer is for the model than the rejected one [pairs]."""
    with computing(model):
        preferred, rejected = sequence_log_probabilities(model, batch).chunk(2)
    return preferred - rejected


def _length(pair: dict[str, Any]) -> int:
    return len(pair["input_ids"]) + len(pair["rejected_ids"])
