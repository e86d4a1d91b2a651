"""AdamW on bf16 weights: each update is computed in 32 bit and rounded stochastically.

A bf16 weight keeps 8 bits. With rounding to nearest, an update below a 512th of the weight is lost every time. Here the
weight is rounded up with a probability equal to its distance from the lower neighbor, as a share of the step between
neighbors. On average the weight then moves by the update (Gupta et al. 2015, arXiv 1502.02551). No second copy of the
weights is kept: weights, gradients and 8-bit states take 6 bytes per parameter.
"""

from typing import Any

import torch
from bitsandbytes.optim import AdamW, GlobalOptimManager
from torch import Tensor, nn

_CHUNK_VALUES = 1 << 24
"""Values that are rounded at a time: their random bits take 64 MB."""
_DROPPED_BITS = 16
"""Low bits of a 32-bit float that bf16 does not have."""


class StochasticAdamW(AdamW):
    """bitsandbytes' AdamW, which rounds its updates of bf16 weights stochastically.

    The random bits are a function of the seed, the step and the position of the parameter. So a resumed training draws
    the bits that it would have drawn, and ranks that train together draw the same ones.
    """

    def __init__(self, params: Any, *, seed: int, **options: Any) -> None:
        super().__init__(params, **options)
        self._seed = seed

    @torch.no_grad()
    def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        """Update the parameter `p`: the one with the index `pindex` in the parameter group `gindex`."""
        if p.dtype != torch.bfloat16:
            super().update_step(group, p, gindex, pindex)
            return
        assert p.grad is not None
        exact_weights = nn.Parameter(p.float())
        exact_weights.grad = p.grad.float()
        state = self.state[exact_weights] = self.state[p]
        super().update_step(group, exact_weights, gindex, pindex)
        del self.state[exact_weights]
        generator = torch.Generator(p.device).manual_seed(self._seed_for(state["step"], gindex, pindex))
        round_stochastically(exact_weights.data, p.data, generator)

    def _seed_for(self, *numbers: int) -> int:
        """Return a different seed for each step and parameter."""
        seed = self._seed
        for number in numbers:
            seed = (seed * 1_000_003 + number) % (1 << 63)
        return seed


def rounding_optimizer(
    model: nn.Module, optimizer_class: Any, options: dict[str, Any], seed: int
) -> tuple[Any, dict[str, Any]]:
    """Return class and arguments of the optimizer of `model`: StochasticAdamW if `optimizer_class` is bitsandbytes'
    AdamW and bf16 weights train, else `optimizer_class` and `options` unchanged.

    States of embeddings are 32 bit, as transformers has them for other weights: their gradients are sparse (Dettmers et
    al. 2021, arXiv 2110.02861).
    """
    trains_bf16 = any(weight.requires_grad and weight.dtype == torch.bfloat16 for weight in model.parameters())
    if optimizer_class is not AdamW or not trains_bf16:
        return optimizer_class, options
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            GlobalOptimManager.get_instance().register_module_override(module, "weight", {"optim_bits": 32})
    return StochasticAdamW, {**options, "seed": seed}


def round_stochastically(values: Tensor, out: Tensor, generator: torch.Generator) -> None:
    """Write fp32 `values` to the bf16 tensor `out` of the same shape, each rounded to one of its two neighbors.

    The neighbor farther from 0 is chosen with a probability equal to the distance from the other one, as a share of the
    step between them. So the rounding is unbiased.
    """
    chunks = zip(values.view(-1).split(_CHUNK_VALUES), out.view(-1).split(_CHUNK_VALUES), strict=True)
    for exact, rounded in chunks:
        bits = exact.view(torch.int32)
        noise = torch.randint(
            1 << _DROPPED_BITS, bits.shape, dtype=torch.int32, device=bits.device, generator=generator
        )
        kept_bits = (bits + noise) >> _DROPPED_BITS << _DROPPED_BITS
        rounded.copy_(kept_bits.view(torch.float32))
