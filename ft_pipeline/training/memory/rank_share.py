"""What one of several ranks holds, when they train together: with DDP a copy of everything, with FSDP2 its share.

Under FSDP2 a rank holds its share of the weights, gradients and optimizer states. Of two layers, the one that computes
and the next one, and of what is outside the layers (embeddings, head) it holds all weights while it computes. Trained
weights of this kind also have whole gradients until they are summed over the ranks. Activations are those of the rank's
rows, with either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.objectives import objective_rules

_GATHERED_LAYERS = 2
"""Layers whose weights a rank holds whole: the one that computes, and the next one."""


@dataclass(frozen=True)
class RankCount:
    """How many processes train together, and how they share the model."""

    count: int = 1
    sharded: bool = False
    """FSDP2; otherwise each rank has the whole model (DDP)."""

    def rows(self, batch: int) -> int:
        """Return the most rows that one rank takes of a batch."""
        return -(-batch // self.count)


ALONE = RankCount()
"""One process."""


@dataclass(frozen=True)
class Held:
    """Bytes that sharding divides: of the whole model, and of what is gathered at a time."""

    whole: float
    layer: float
    """Of one layer."""
    outside: float
    """Outside the layers."""

    def of_one(self, ranks: RankCount) -> float:
        """Return the bytes that one rank holds at most."""
        if not ranks.sharded:
            return self.whole
        gathered = self.outside + _GATHERED_LAYERS * self.layer
        return min(self.whole, self.whole / ranks.count + gathered)


def why_not_sharded(settings: ExperimentSettings) -> str | None:
    """Return which setting FSDP2 does not support, and what to set instead; None if it supports all of them."""
    if objective_rules()[settings.objective].draws_answers:
        return (
            f"objective {settings.objective!r} draws answers, which FSDP does not support. Set `distributed_type: "
            "MULTI_GPU` in the file that FT_ACCELERATE_CONFIG names."
        )
    if settings.technique == "prompt_tuning":
        return (
            "technique 'prompt_tuning' is not supported with FSDP. Set `technique: lora`, or "
            "`distributed_type: MULTI_GPU` in the file that FT_ACCELERATE_CONFIG names."
        )
    if settings.technique == "qlora" and settings.lora.use_dora:
        return "lora.use_dora is not supported with FSDP and 4-bit weights. Remove it, or set `technique: lora`."
    if settings.training.pure_bf16:
        return (
            "training.pure_bf16 is not supported with FSDP. Remove it: FSDP shards the 32-bit weights across the GPUs."
        )
    if settings.training.optim != "adamw_torch":
        return f"training.optim {settings.training.optim!r} is not supported with FSDP. Set `optim: adamw_torch`."
    return None


def describe_ranks(ranks: Mapping[str, Any]) -> str:
    """Return, for example, `each of 2 GPUs: 9.1 GB with DDP, 5.3 GB with FSDP2`. ranks: of estimate_experiment."""
    parts = [f"{ranks['ddp_gb']:.1f} GB with DDP"]
    if ranks["fsdp2_gb"] is not None:
        parts.append(f"{ranks['fsdp2_gb']:.1f} GB with FSDP2")
    return f"each of {ranks['count']} GPUs: {', '.join(parts)}"
