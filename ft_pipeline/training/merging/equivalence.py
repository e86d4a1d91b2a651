"""Compare the predictions of two models: held-out loss, and KL divergence of their next-token distributions on answers.

Models are measured one at a time. Logits of a whole sample are too large to keep: 1 GB for 4,000 tokens and a
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
from ft_pipeline.training.tokens.sample import sample
from ft_pipeline.training.trainer.batches import batches_by_length, collate
from ft_pipeline.training.trainer.loss import Head, answer_states, detached_head

HELD_OUT_ROWS = 512
"""Maximum number of rows of a held-out loss. Up to five models read them."""
COMPARED_ROWS = 64
"""Maximum number of rows whose distributions are compared: a subset of those of the loss, whatever the vocabulary."""
COMPARED_TOKENS = 4_000
"""Maximum number of answer tokens of those rows: enough for a mean KL to the third digit."""
_BATCH = 8
_SLICE = 128
_COMPARED_SLICE = 64
"""Tokens compared at a time. Five models with a vocabulary of 128,000 then take 160 MB of log-probabilities."""
_COMPARED = "compared"
"""Key of a row: which of its trained tokens are compared [trained tokens]."""


@dataclass(frozen=True)
class Measurement:
    """What one model predicts for the held-out answers."""

    loss: float
    """Nats per answer token, over all of `rows` rows."""
    rows: int
    states: Tensor
    """Last hidden states that predict the compared tokens [tokens, width of the model]; on the CPU, in fixed order."""
    head: Head
    """Computes logits from `states`; on the CPU."""
    compared_rows: int
    """Rows that the compared tokens come from."""


class HeldOut:
    """The held-out rows (`id`, `input_ids`, `labels`), on which models are measured one after the other."""

    def __init__(self, rows: Sequence[dict[str, Any]], pad_token_id: int) -> None:
        self.rows = rows
        self._pad = pad_token_id
        self._first: Measurement | None = None

    def measure(self, load: Callable[[], Any]) -> Measurement:
        """Load a model, measure it and release it, so that two are never in memory at once."""
        model = load()
        speed_up_products(model, trains=False)
        result = measure(model, self.rows, self._pad, like=self._first)
        del model
        self._first = self._first or result
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return result


@torch.no_grad()
def measure(
    model: Any, rows: Sequence[dict[str, Any]], pad_token_id: int, like: Measurement | None = None
) -> Measurement:
    """Measure `model` on the trained tokens of `rows` (`id`, `input_ids`, `labels`), or of a sample of many rows.

    like: an earlier measurement. If the heads are equal, only one is kept.
    """
    model.eval()
    head = detached_head(model)
    marked = _mark_compared(sample(rows, HELD_OUT_ROWS))
    total, count, kept = 0.0, 0, []
    for batch in batches_by_length(marked, _BATCH):
        tensors = {key: value.to(model.device) for key, value in collate(batch, pad_token_id).items()}
        hidden, targets = answer_states(model, tensors)
        compared = torch.cat([row[_COMPARED] for row in batch])
        kept.append(hidden[compared.to(hidden.device)].cpu())
        for states, chosen in zip(hidden.split(_SLICE), targets.split(_SLICE), strict=True):
            total += float(functional.cross_entropy(head.logits(states).float(), chosen, reduction="sum"))
        count += len(targets)
    head = head.to("cpu")
    if like is not None and head.equals(like.head):
        head = like.head
    compared_rows = sum(bool(row[_COMPARED].any()) for row in marked)
    return Measurement(total / count, len(marked), torch.cat(kept), head, compared_rows)


def _mark_compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `rows` with their compared tokens, evenly spaced, so that a row counts by its length as in the loss."""
    chosen = {id(row) for row in sample(rows, COMPARED_ROWS)}
    lengths = [sum(label != MASKED for label in row["labels"][1:]) for row in rows]
    shares = [length if id(row) in chosen else 0 for row, length in zip(rows, lengths, strict=True)]
    total = sum(shares)
    limit = min(total, COMPARED_TOKENS)
    spread = torch.zeros(total, dtype=torch.bool)
    spread[torch.arange(limit) * total // limit] = True
    marks = [
        mask if share else torch.zeros(length, dtype=torch.bool)
        for mask, share, length in zip(spread.split(shares), shares, lengths, strict=True)
    ]
    return [{**row, _COMPARED: mask} for row, mask in zip(rows, marks, strict=True)]


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
    parts = [measured[name].states.split(_COMPARED_SLICE) for name in names]
    totals = dict.fromkeys(pairs, 0.0)
    for slices in zip(*parts, strict=True):
        logs = {
            name: heads[id(measured[name].head)].logits(states.to(device)).float().log_softmax(1)
            for name, states in zip(names, slices, strict=True)
        }
        for first, second in pairs:
            totals[first, second] += float((logs[first].exp() * (logs[first] - logs[second])).sum())
    return {pair: total / len(measured[pair[0]].states) for pair, total in totals.items()}
