"""Cross-entropy on the trained tokens alone: no logits where nothing is learned, no 32-bit copy of all of them.

A vocabulary of 49,152 words makes the logits of one 2,000-token batch 200 MB in 16 bit and 400 MB in 32 bit, most of
them for prompt tokens that no loss looks at. Here the hidden states are gathered at the labels first, the head runs on
those in slices, and with a frozen head the gradient is made in the same pass, so that nothing of it is kept.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ft_pipeline.models.learned_prompt import learned_prompt
from ft_pipeline.models.parts import causal_lm
from ft_pipeline.training.batches import BOUNDS
from ft_pipeline.training.tokens import MASKED

_SLICE = 128
"""Rows of logits that exist at a time: few enough for a CPU's cache, enough for its matrix product."""


def answer_loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Summed loss (nats, fp32 scalar) over the trained tokens of a batch, and their number.

    `batch` as batches.collate makes it, padded or end to end. Equals the model's own loss times that number.
    """
    losses = token_losses(model, batch)
    return losses.sum(), len(losses)


def sequence_log_probabilities(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Summed log probability (nats, fp32) of the trained tokens of each row [rows]."""
    rows, owners = _owners(batch)
    losses = token_losses(model, batch)
    return torch.zeros(rows, dtype=losses.dtype, device=losses.device).index_add(0, owners, -losses)


def _owners(batch: dict[str, Tensor]) -> tuple[int, Tensor]:
    """How many rows there are, and the row of each trained token [tokens]."""
    trained = (batch["labels"][:, 1:] != MASKED).nonzero()
    if (bounds := batch.get(BOUNDS)) is None:
        return len(batch["labels"]), trained[:, 0]
    return len(bounds) - 1, torch.bucketize(trained[:, 1] + 1, bounds[1:], right=True)


def token_losses(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Loss of every trained token [tokens] (nats, fp32), row after row; `batch` as in answer_loss."""
    hidden, targets = answer_states(model, batch)
    head = model.get_output_embeddings()
    if head.weight.requires_grad or head.bias is not None or _transform(model) != (1.0, None):
        return _general_loss(model, hidden, targets)
    return _FrozenHeadLoss.apply(hidden, head.weight, targets)


def answer_states(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Last hidden states [tokens, width of the model] where a trained token is predicted, and those tokens [tokens]."""
    states = hidden_states(model, batch)
    targets = batch["labels"][:, 1:]
    trained = targets != MASKED
    return states[:, :-1][trained], targets[trained]


def hidden_states(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Last hidden states [rows, width, width of the model] of the rows' own tokens, behind a learned prompt if any."""
    decoder, prompt = _decoder(model), learned_prompt(model)
    if BOUNDS in batch:
        return decoder(**_rows_end_to_end(batch), use_cache=False).last_hidden_state
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if prompt is None:
        return decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    words = decoder.get_input_embeddings()(ids)
    embeddings = torch.cat([prompt.to(words.dtype).expand(len(ids), -1, -1), words], dim=1)
    seen = torch.cat([mask.new_ones(len(ids), len(prompt)), mask], dim=1)
    states = decoder(inputs_embeds=embeddings, attention_mask=seen, use_cache=False).last_hidden_state
    return states[:, len(prompt) :]


def _rows_end_to_end(batch: dict[str, Tensor]) -> dict[str, Any]:
    """A decoder's arguments, named as transformers' variable-length attention names them."""
    bounds, longest = batch[BOUNDS], int(batch[BOUNDS].diff().max())
    return {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Logits [tokens, vocabulary] of hidden states, as the model's own forward makes them."""
    return _transformed(model.get_output_embeddings()(hidden), *_transform(model))


@dataclass(frozen=True)
class Head:
    """What makes logits of a model's last hidden states; it can outlive the model."""

    weight: Tensor
    """[vocabulary, width of the model]"""
    bias: Tensor | None
    scale: float
    cap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        """As logits_of."""
        return _transformed(functional.linear(hidden, self.weight, self.bias), self.scale, self.cap)

    def to(self, device: str) -> "Head":
        """This head on `device`; its weights are not copied if they are there already."""
        return replace(self, weight=self.weight.to(device), bias=None if self.bias is None else self.bias.to(device))

    def equals(self, head: "Head") -> bool:
        """Whether both, on one device, make the same logits of the same states."""
        if (self.scale, self.cap) != (head.scale, head.cap):
            return False
        return _same(self.weight, head.weight) and _same(self.bias, head.bias)


def head_of(model: Any) -> Head:
    """The head of `model`, with the model's own weights and not a copy."""
    module = model.get_output_embeddings()
    bias = None if module.bias is None else module.bias.detach()
    return Head(module.weight.detach(), bias, *_transform(model))


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and torch.equal(first, second)


def _transformed(logits: Tensor, scale: float, cap: float | None) -> Tensor:
    if scale != 1.0:
        logits = logits * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _decoder(model: Any) -> Any:
    """The model without its head; an adapter's layers are inside it."""
    return causal_lm(model).base_model


def _transform(model: Any) -> tuple[float, float | None]:
    """What some models do to their logits: a factor (Cohere, Granite, Falcon-H1) and a soft cap (Gemma 2)."""
    config = model.config.get_text_config()
    factors = (getattr(config, key, None) for key in ("logit_scale", "output_multiplier", "lm_head_multiplier"))
    scale = next((factor for factor in factors if factor is not None), None)
    if scale is None:
        divisor = getattr(config, "logits_scaling", None) or 1.0
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    return float(scale), getattr(config, "final_logit_softcapping", None)


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy [tokens] of `hidden @ weightᵀ`; the weight gets no gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for begin in range(0, hidden.shape[0], _SLICE):
            part = slice(begin, begin + _SLICE)
            chosen = targets[part, None]
            log_probabilities = torch.log_softmax(hidden[part] @ weight.T, 1, dtype=torch.float32)
            losses[part] = -log_probabilities.gather(1, chosen)[:, 0]
            if gradient is not None:
                slope = log_probabilities.exp_()  # softmax minus one-hot, in place
                slope.scatter_add_(1, chosen, slope.new_full(chosen.shape, -1.0))
                gradient[part] = slope.to(hidden.dtype) @ weight
        ctx.save_for_backward(*([gradient] if gradient is not None else []))
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype)[:, None], None, None


def _general_loss(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """The same by autograd, for heads that learn (full fine-tuning) or transform: slices recomputed when going back."""

    def part(states: Tensor, chosen: Tensor) -> Tensor:
        return functional.cross_entropy(logits_of(model, states).float(), chosen, reduction="none")

    slices = zip(hidden.split(_SLICE), targets.split(_SLICE), strict=True)
    losses = [checkpoint(part, states, chosen, use_reentrant=False) for states, chosen in slices]
    return torch.cat(losses)
