"""The loss on the trained tokens only: no logits for other tokens, and no 32-bit copy of all logits.

With a vocabulary of 49,152 tokens, the logits of one 2,000-token batch take 200 MB in 16 bit and 400 MB in 32 bit. Most
of them are for prompt tokens, which have no loss. Here the hidden states are gathered at the labels first, and the head
runs on those in slices. With a frozen head, the gradient is computed in the same pass, so that no logits are kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ft_pipeline.models.cpu.packed_linear import FrozenLinear
from ft_pipeline.models.model_structure import causal_lm
from ft_pipeline.models.soft_prompt import learned_prompt
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.batches import BRANCHES, ROW_BOUNDS

_SLICE_ROWS = 128
"""Rows of logits that are computed at a time: enough for a CPU's matrix product."""
_CPU_SLICE_ROWS = 8
"""Rows of logits that a CPU widens to 32 bit at a time."""


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Disable gradients and set eval mode inside the context. The previous mode is restored."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)


def answer_loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Return the summed loss (nats, fp32 scalar) over the trained tokens of a batch, and their number.

    `batch` is a result of batches.collate, padded or end to end. The sum equals the model's own loss times the number.
    """
    losses = token_losses(model, batch)
    return losses.sum(), len(losses)


def sequence_log_probabilities(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the summed log probability (nats, fp32) of the trained tokens of each row [rows]."""
    return sum_by_row(batch, -token_losses(model, batch))


def sum_by_row(batch: dict[str, Tensor], values: Tensor) -> Tensor:
    """Return the sum [rows] of values [tokens] over the trained tokens of each row."""
    rows, token_rows = _row_of_each_token(batch)
    return torch.zeros(rows, dtype=values.dtype, device=values.device).index_add(0, token_rows, values)


def trained_tokens_of_rows(batch: dict[str, Tensor]) -> Tensor:
    """Return the number of trained tokens of each row [rows]."""
    rows, token_rows = _row_of_each_token(batch)
    return torch.bincount(token_rows, minlength=rows)


def _row_of_each_token(batch: dict[str, Tensor]) -> tuple[int, Tensor]:
    """Return the number of rows, and the index of the row of each trained token [tokens]."""
    trained = (batch["labels"][:, 1:] != MASKED).nonzero()
    if (bounds := batch.get(ROW_BOUNDS)) is None:
        return len(batch["labels"]), trained[:, 0]
    return len(bounds) - 1, torch.bucketize(trained[:, 1] + 1, bounds[1:], right=True)


def token_losses(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of every trained token [tokens] (nats, fp32), row after row. `batch` as in answer_loss."""
    return head_losses(model, *answer_states(model, batch))


class Criterion(Protocol):
    """What the loss of a token compares its log probabilities with."""

    def losses(self, log_probabilities: Tensor, part: slice) -> Tensor:
        """Return the losses [tokens] (nats) of some tokens. log_probabilities: [tokens, vocabulary], fp32."""
        ...

    def gradient(self, log_probabilities: Tensor, part: slice) -> Tensor:
        """Return the gradient [tokens, vocabulary] of the losses with respect to the logits. `log_probabilities` may be
        overwritten."""
        ...


@dataclass(frozen=True)
class TargetTokens:
    """The criterion of cross-entropy: one right token at each position."""

    targets: Tensor
    """[tokens]"""

    def losses(self, log_probabilities: Tensor, part: slice) -> Tensor:
        """Return minus the log probability of the right token."""
        return -log_probabilities.gather(1, self.targets[part, None])[:, 0]

    def gradient(self, log_probabilities: Tensor, part: slice) -> Tensor:
        """Return softmax minus one-hot."""
        gradient = log_probabilities.exp_()
        return gradient.scatter_add_(1, self.targets[part, None], gradient.new_full((len(gradient), 1), -1.0))


def head_losses(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy [tokens] (nats, fp32) of the head on hidden states [tokens, width of the model]."""
    return criterion_losses(model, hidden, TargetTokens(targets))


def criterion_losses(model: Any, hidden: Tensor, criterion: Criterion) -> Tensor:
    """Return the loss [tokens] (nats, fp32) of the head on hidden states [tokens, width of the model]."""
    head = _head_with_gradients(model)
    if head.weight.requires_grad or not head.is_linear:
        return _GeneralHeadLoss.apply(hidden, head.weight, head.bias, criterion, head, _product_dtype(hidden))
    module = model.get_output_embeddings()
    return _FrozenHeadLoss.apply(hidden, head.weight, criterion, module if isinstance(module, FrozenLinear) else None)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the type in which the head multiplies: autocast's if it is enabled, else that of the hidden states."""
    device_type = hidden.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype


def answer_states(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the last hidden states [tokens, width of the model] that predict the trained tokens, and those tokens
    [tokens]."""
    states = hidden_states(model, batch)
    targets = batch["labels"][:, 1:]
    trained = targets != MASKED
    return states[:, :-1][trained], targets[trained]


def hidden_states(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the last hidden states [rows, tokens, width of the model] of the rows' own tokens, without those of a
    learned prompt that precedes them."""
    decoder, prompt = _decoder(model), learned_prompt(model)
    if ROW_BOUNDS in batch:
        return decoder(**_rows_end_to_end(batch), use_cache=False).last_hidden_state
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if prompt is None:
        return decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    token_embeddings = decoder.get_input_embeddings()(ids)
    embeddings = torch.cat([prompt.to(token_embeddings.dtype).expand(len(ids), -1, -1), token_embeddings], dim=1)
    full_mask = torch.cat([mask.new_ones(len(ids), len(prompt)), mask], dim=1)
    states = decoder(inputs_embeds=embeddings, attention_mask=full_mask, use_cache=False).last_hidden_state
    return states[:, len(prompt) :]


def _rows_end_to_end(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Return a decoder's arguments, with the names of transformers' variable-length attention."""
    bounds, longest = batch[ROW_BOUNDS], int(batch[ROW_BOUNDS].diff().max())
    return {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
        **({"branches": batch[BRANCHES]} if BRANCHES in batch else {}),
    }


def compute_logits(model: Any, hidden: Tensor) -> Tensor:
    """Return the logits [tokens, vocabulary] of hidden states, as the model's own forward pass computes them."""
    return _head_with_gradients(model).transform(model.get_output_embeddings()(hidden))


@dataclass(frozen=True)
class Head:
    """Computes logits from a model's last hidden states. It can outlive the model."""

    weight: Tensor
    """[vocabulary, width of the model]"""
    bias: Tensor | None
    scale: float
    """A factor of the logits (Cohere, Granite, Falcon-H1)."""
    cap: float | None
    """A soft cap: logits become cap · tanh(logits / cap) (Gemma 2, arXiv 2408.00118)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the same logits as compute_logits."""
        return self.transform(functional.linear(hidden, self.weight, self.bias))

    def transform(self, products: Tensor) -> Tensor:
        """Return the logits for products of states and weights."""
        scaled = products if self.scale == 1.0 else products * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def gradient_of_products(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Convert the gradient with respect to `logits`, a result of `transform`, to that of the products."""
        if self.cap is not None:
            gradient = gradient * (1 - (logits.float() / self.cap) ** 2)
        return gradient if self.scale == 1.0 else gradient * self.scale

    @property
    def is_linear(self) -> bool:
        """Whether the logits are plain products of states and weights."""
        return self.bias is None and (self.scale, self.cap) == (1.0, None)

    def to(self, target: str | torch.dtype) -> "Head":
        """Return this head on a device, or in a type. The weights are copied only if they are not there already."""
        return replace(self, weight=self.weight.to(target), bias=None if self.bias is None else self.bias.to(target))

    def equals(self, head: "Head") -> bool:
        """Whether both heads, on one device, compute the same logits from the same states."""
        if (self.scale, self.cap) != (head.scale, head.cap):
            return False
        return _are_equal(self.weight, head.weight) and _are_equal(self.bias, head.bias)


def detached_head(model: Any) -> Head:
    """Return the head of `model`. It shares the model's weights, without gradients."""
    head = _head_with_gradients(model)
    return replace(head, weight=head.weight.detach(), bias=None if head.bias is None else head.bias.detach())


def _head_with_gradients(model: Any) -> Head:
    module = model.get_output_embeddings()
    return Head(module.weight, module.bias, *_logit_transform(model))


def _are_equal(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and torch.equal(first, second)


def _decoder(model: Any) -> Any:
    """Return the model without its head. It includes the layers of an adapter."""
    return causal_lm(model).base_model


def _logit_transform(model: Any) -> tuple[float, float | None]:
    """Return the factor and the soft cap that some models apply to their logits."""
    config = model.config.get_text_config()
    factors = (getattr(config, key, None) for key in ("logit_scale", "output_multiplier", "lm_head_multiplier"))
    scale = next((factor for factor in factors if factor is not None), None)
    if scale is None:
        divisor = getattr(config, "logits_scaling", None) or 1.0
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    return float(scale), getattr(config, "final_logit_softcapping", None)


class _FrozenHeadLoss(torch.autograd.Function):
    """The losses [tokens] of `hidden @ weightᵀ`, computed by the packed layer if there is one. The weight gets no
    gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, criterion: Criterion, packed: FrozenLinear | None = None
    ) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for part in _slices(hidden):
            logits = packed.product(hidden[part]) if packed else hidden[part] @ weight.T
            losses[part] = _losses(logits, criterion, part.start, overwrite_with_gradient=gradient is not None)
            if gradient is not None:
                gradient[part] = packed.input_gradient(logits) if packed else logits @ weight
        ctx.save_for_backward(*([gradient] if gradient is not None else []))
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype)[:, None], None, None, None


class _GeneralHeadLoss(torch.autograd.Function):
    """The losses [tokens] of a head that is trained, has a bias, or transforms its logits. Products run in `dtype`.

    The backward pass computes each slice of logits a second time. The gradients of weight and bias are summed over the
    slices in 32 bit, because a 16-bit sum of many slices loses the later ones.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        criterion: Criterion,
        head: Head,
        dtype: torch.dtype,
    ) -> Tensor:
        states, rounded = hidden.to(dtype), replace(head, weight=weight, bias=bias).to(dtype)
        ctx.save_for_backward(states, rounded.weight, rounded.bias)
        ctx.head, ctx.criterion = head, criterion
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for part in _slices(states):
            losses[part] = _losses(rounded.logits(states[part]), criterion, part.start)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias = ctx.saved_tensors
        head = replace(ctx.head, weight=weight, bias=bias)
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        states_gradient = torch.empty_like(states) if needs_states else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        for part in _slices(states):
            logits = head.logits(states[part])
            log_probabilities = torch.log_softmax(logits, 1, dtype=torch.float32)
            logits_gradient = ctx.criterion.gradient(log_probabilities, slice(part.start, part.start + len(logits)))
            logits_gradient *= outputs[0][part, None]
            products_gradient = head.gradient_of_products(logits_gradient, logits).to(states.dtype)
            if states_gradient is not None:
                states_gradient[part] = products_gradient @ weight
            if weight_gradient is not None:
                weight_gradient += products_gradient.T @ states[part]
            if bias_gradient is not None:
                bias_gradient += products_gradient.sum(0, dtype=torch.float32)
        gradients = zip((states_gradient, weight_gradient, bias_gradient), ctx.dtypes, strict=True)
        return (*(None if gradient is None else gradient.to(dtype) for gradient, dtype in gradients), None, None, None)


def _slices(rows: Tensor, size: int = _SLICE_ROWS) -> Iterator[slice]:
    return (slice(begin, begin + size) for begin in range(0, len(rows), size))


def _losses(logits: Tensor, criterion: Criterion, begin: int, *, overwrite_with_gradient: bool = False) -> Tensor:
    """Return the loss of each row [rows] (nats, fp32) from its logits [rows, vocabulary]. begin: number of the first.

    overwrite_with_gradient: replace the logits by the gradient of the losses with respect to them. A few rows are
    processed at a time, so that their 32-bit form stays in a CPU's cache.
    """
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    for part in _slices(logits, _CPU_SLICE_ROWS if logits.device.type == "cpu" else _SLICE_ROWS):
        log_probabilities = torch.log_softmax(logits[part], 1, dtype=torch.float32)
        rows = slice(begin + part.start, begin + part.start + len(log_probabilities))
        losses[part] = criterion.losses(log_probabilities, rows)
        if overwrite_with_gradient:
            logits[part] = criterion.gradient(log_probabilities, rows)
    return losses
