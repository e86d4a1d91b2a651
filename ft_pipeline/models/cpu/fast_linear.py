"""Fast products on a CPU: all changes to the linear layers of a loaded model, in the only correct order."""

from typing import Any

from ft_pipeline.models.cpu.dequantize import dequantize_once
from ft_pipeline.models.cpu.fused_lora import fuse_lora
from ft_pipeline.models.cpu.packed_linear import pack_frozen


def speed_up_products(model: Any, *, trains: bool) -> None:
    """Dequantize 4-bit matrices once, pack frozen ones, and fuse LoRA with them, if memory allows. On a GPU nothing
    changes.

    trains: whether gradients will flow through `model`. Otherwise all its weights are frozen first. Call it when every
    weight is loaded; the model cannot be merged, copied or saved in 4 bit afterwards.
    """
    if not trains:
        model.requires_grad_(False)
    dequantize_once(model)
    pack_frozen(model, trains=trains)
    fuse_lora(model)
