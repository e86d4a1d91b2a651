"""The load-balancing loss of a mixture of experts (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6).

A router that trains on the answers alone may send every token to the same few experts. A model's own forward pass adds
a loss against that when it computes logits. The trainer uses hidden states only, so the loss is added here.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ft_pipeline.models.model_structure import causal_lm

_FACTOR_NAMES = ("router_aux_loss_coef", "aux_loss_coef")
"""The attributes of models that contain the factor of this loss."""
_EXPECTED_ARGUMENTS = ("num_experts", "top_k", "attention_mask")
"""Arguments of transformers' function for this loss, after the router logits."""


@contextmanager
def collect_balance_losses(model: Any) -> Iterator[list[Tensor]]:
    """Within the context, every forward pass of `model`'s decoder adds its weighted load-balancing loss (a scalar) to
    the list. `model`: a causal LM, with or without an adapter.

    The list stays empty for a dense model, for a factor of 0, without gradients (so held-out losses are pure
    cross-entropy), and if no trained weight influences a router. The model's config is not changed: a model whose
    config enables router logits cannot generate.
    """
    causal = causal_lm(model)
    losses: list[Tensor] = []
    factor, balance_loss = _balance_factor(causal), _balance_function(causal)
    if not factor or balance_loss is None or not torch.is_grad_enabled():
        yield losses
        return

    def request_router_logits(decoder: Any, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**keywords, "output_router_logits": True}

    def add_loss(decoder: Any, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        mask = keywords.get("attention_mask")
        loss = balance_loss(output.router_logits, causal.num_experts, causal.num_experts_per_tok, mask)
        if isinstance(loss, Tensor) and loss.requires_grad:
            losses.append(factor * loss)

    hooks = [
        causal.base_model.register_forward_pre_hook(request_router_logits, with_kwargs=True),
        causal.base_model.register_forward_hook(add_loss, with_kwargs=True),
    ]
    try:
        yield losses
    finally:
        for hook in hooks:
            hook.remove()


def _balance_factor(causal: Any) -> float:
    """Return the factor by which the model's own forward pass multiplies this loss; 0 if it has none."""
    return next((float(factor) for name in _FACTOR_NAMES if (factor := getattr(causal, name, None))), 0.0)


def _balance_function(causal: Any) -> Callable[..., Any] | None:
    """Return transformers' function for the architecture, if its arguments are as expected.

    These are the router logits of each layer, the number of experts, the number of experts per token, and the attention
    mask. (Doge's function reads product keys as well.)
    """
    function: Callable[..., Any] | None
    function = getattr(sys.modules[type(causal).__module__], "load_balancing_loss_func", None)
    if function is None or tuple(inspect.signature(function).parameters)[1:] != _EXPECTED_ARGUMENTS:
        return None
    return function
