"""The load-balancing loss of a mixture of experts (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6).

A router that trains on the answers alone may send every token to the same few experts. A model's own forward pass adds
a loss against that when it also computes the logits. The trainer reads hidden states, so the loss is added here.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ft_pipeline.models.model_structure import causal_lm

_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")
"""Names of the factor of this loss in models."""
_READS = ("num_experts", "top_k", "attention_mask")


@contextmanager
def balance_of(model: Any) -> Iterator[list[Tensor]]:
    """Within the context, every forward pass of `model`'s decoder adds its weighted load-balancing loss (a scalar) to
    the list. `model`: a causal LM, with or without an adapter.

    The list stays empty for a dense model, for a factor of 0, without gradients (so held-out losses are pure
    cross-entropy), and if no trained weight influences a router. The model's config is not changed: a model whose
    config enables router logits cannot generate.
    """
    causal = causal_lm(model)
    losses: list[Tensor] = []
    weight, measure = _weight(causal), _measure(causal)
    if not weight or measure is None or not torch.is_grad_enabled():
        yield losses
        return

    def ask(decoder: Any, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**keywords, "output_router_logits": True}

    def add(decoder: Any, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        mask = keywords.get("attention_mask")
        balance = measure(output.router_logits, causal.num_experts, causal.num_experts_per_tok, mask)
        if isinstance(balance, Tensor) and balance.requires_grad:
            losses.append(weight * balance)

    hooks = [
        causal.base_model.register_forward_pre_hook(ask, with_kwargs=True),
        causal.base_model.register_forward_hook(add, with_kwargs=True),
    ]
    try:
        yield losses
    finally:
        for hook in hooks:
            hook.remove()


def _weight(causal: Any) -> float:
    """Return the factor by which the model's own forward pass multiplies this loss; 0 if it has none."""
    return next((float(factor) for name in _WEIGHTS if (factor := getattr(causal, name, None))), 0.0)


def _measure(causal: Any) -> Callable[..., Any] | None:
    """Return transformers' function for the architecture, if its arguments are as expected.

    These are the router logits of each layer, the number of experts, the number of experts per token, and the attention
    mask. (Doge's function reads product keys as well.)
    """
    function: Callable[..., Any] | None
    function = getattr(sys.modules[type(causal).__module__], "load_balancing_loss_func", None)
    if function is None or tuple(inspect.signature(function).parameters)[1:] != _READS:
        return None
    return function
