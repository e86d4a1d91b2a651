"""Check that a merged model predicts what its adapter predicts: compare their losses on held-out answers, and the KL
divergence of their next-token distributions.

Models are measured one at a time. The logits of all compared tokens are too large to keep: 1 GB for 4,000 tokens and a
vocabulary of 128,000. Only the last hidden states (33 MB for a width of 4,096) and the head are kept. Comparing two
models computes their logits again, a few tokens at a time.
"""

import gc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.tokens.sample import sample_rows
from ft_pipeline.training.trainer.batches import batches_by_length, collate
from ft_pipeline.training.trainer.loss import Head, answer_states, detached_head

HELD_OUT_ROWS = 512
"""Maximum number of rows of a held-out loss. Up to five models read them."""
COMPARED_ROWS = 64
"""Maximum number of rows whose distributions are compared. They are among the rows of the loss."""
COMPARED_TOKENS = 4_000
"""Maximum number of answer tokens of those rows: enough for a mean KL to the third digit."""
_BATCH_ROWS = 8
"""Number of rows that a model reads at a time."""
_LOSS_SLICE = 128
"""Number of tokens whose losses are computed at a time, so that few logits are in memory."""
_COMPARED_SLICE = 64
"""Number of tokens compared at a time. Five models with a vocabulary of 128,000 take 160 MB of log probabilities."""
_COMPARED_KEY = "compared"
"""Key in a row: for each of its trained tokens, whether it is compared."""


@dataclass(frozen=True)
class Measurement:
    """Loss and predictions of one model on the held-out answers."""

    loss: float
    """Nats per answer token, over all of `rows` rows."""
    rows: int
    states: Tensor
    """Last hidden states that predict the compared tokens [tokens, width of the model]; on the CPU, in fixed order."""
    head: Head
    """Computes logits from `states`; on the CPU."""
    compared_rows: int
    """Rows that the compared tokens come from."""


class HeldOutRows:
    """The held-out rows (`id`, `input_ids`, `labels`) on which models are measured, one after the other."""

    def __init__(self, rows: Sequence[dict[str, Any]], pad_token_id: int) -> None:
        self.rows = rows
        self._pad_token_id = pad_token_id
        self._first_measurement: Measurement | None = None

    def load_and_measure(self, load: Callable[[], Any]) -> Measurement:
        """Load a model, measure it and free it, so that no two models are in memory at once."""
        model = load()
        speed_up_products(model, trains=False)
        result = measure_model(model, self.rows, self._pad_token_id, earlier=self._first_measurement)
        del model
        self._first_measurement = self._first_measurement or result
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return result


@torch.no_grad()
def measure_model(
    model: Any, rows: Sequence[dict[str, Any]], pad_token_id: int, earlier: Measurement | None = None
) -> Measurement:
    """Measure `model` on the trained tokens of at most HELD_OUT_ROWS of the rows (`id`, `input_ids`, `labels`).

    earlier: another measurement. If both models have the same head, it is kept once.
    """
    model.eval()
    head = detached_head(model)
    marked = _mark_compared(sample_rows(rows, HELD_OUT_ROWS))
    loss_sum, token_count, compared_states = 0.0, 0, []
    for batch in batches_by_length(marked, _BATCH_ROWS):
        inputs = {key: value.to(model.device) for key, value in collate(batch, pad_token_id).items()}
        hidden, targets = answer_states(model, inputs)
        compared = torch.cat([row[_COMPARED_KEY] for row in batch])
        compared_states.append(hidden[compared.to(hidden.device)].cpu())
        for slice_states, slice_targets in zip(hidden.split(_LOSS_SLICE), targets.split(_LOSS_SLICE), strict=True):
            loss_sum += float(
                functional.cross_entropy(head.logits(slice_states).float(), slice_targets, reduction="sum")
            )
        token_count += len(targets)
    head = head.to("cpu")
    if earlier is not None and head.equals(earlier.head):
        head = earlier.head
    compared_rows = sum(bool(row[_COMPARED_KEY].any()) for row in marked)
    return Measurement(loss_sum / token_count, len(marked), torch.cat(compared_states), head, compared_rows)


def _mark_compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `rows` with a mask of their compared tokens. These are spaced evenly over COMPARED_ROWS rows, so that a
    longer row has more weight, as in the loss."""
    compared_rows = {id(row) for row in sample_rows(rows, COMPARED_ROWS)}
    lengths = [sum(label != MASKED for label in row["labels"][1:]) for row in rows]
    compared_lengths = [length if id(row) in compared_rows else 0 for row, length in zip(rows, lengths, strict=True)]
    total = sum(compared_lengths)
    limit = min(total, COMPARED_TOKENS)
    is_compared = torch.zeros(total, dtype=torch.bool)
    is_compared[torch.arange(limit) * total // limit] = True
    masks = [
        mask if compared_length else torch.zeros(length, dtype=torch.bool)
        for mask, compared_length, length in zip(
            is_compared.split(compared_lengths), compared_lengths, lengths, strict=True
        )
    ]
    return [{**row, _COMPARED_KEY: mask} for row, mask in zip(rows, masks, strict=True)]


def kl_divergence(first: Measurement, second: Measurement, device: str = "cpu") -> float:
    """Return the mean KL(first || second) in nats per token, computed in fp32 on `device`. Both must be measured on the
    same rows."""
    return kl_divergences({"first": first, "second": second}, [("first", "second")], device)["first", "second"]


@torch.no_grad()
def kl_divergences(
    measured: Mapping[str, Measurement], pairs: Collection[tuple[str, str]], device: str = "cpu"
) -> dict[tuple[str, str], float]:
    """Return `kl_divergence` of several pairs of names. The logits of each model are computed once."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    heads = {id(measured[name].head): measured[name].head.to(device) for name in names}
    state_slices = [measured[name].states.split(_COMPARED_SLICE) for name in names]
    totals = dict.fromkeys(pairs, 0.0)
    for slices in zip(*state_slices, strict=True):
        log_probabilities = {
            name: heads[id(measured[name].head)].logits(states.to(device)).float().log_softmax(1)
            for name, states in zip(names, slices, strict=True)
        }
        for first, second in pairs:
            totals[first, second] += float(
                (log_probabilities[first].exp() * (log_probabilities[first] - log_probabilities[second])).sum()
            )
    return {pair: total / len(measured[pair[0]].states) for pair, total in totals.items()}
