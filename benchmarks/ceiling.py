"""How fast a QLoRA step could be on this machine if nothing but its matrix products and its dequantization took time.

A step of a frozen base costs 4 FLOP per weight and token in its linear layers and head: 2 forward, and 2 for the
gradient of the inputs. The gradient of the weights is not needed, but for those of the adapters: a hundredth of it, and
left out. NF4 weights are unpacked twice a step, once in each direction.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft_pipeline.training.trainer.memory_usage import peak_memory_gb


def measure(base: Path, lengths: list[int], batch: int) -> dict[str, float]:
    """tokens_per_second of the ceiling for rows of `lengths` tokens in batches of `batch` rows, from what products of
    the model's own shapes, and the dequantization of its weights, take here in the machine's compute type."""
    import torch
    from transformers import AutoConfig

    from ft_pipeline.models.compute_dtype import compute_dtype

    dtype = compute_dtype("cpu")
    config = AutoConfig.from_pretrained(base)
    steps = -(-len(lengths) // batch)
    tokens = sum(lengths)
    shapes = _shapes(config)
    rows = max(1, tokens // steps)
    forward_and_back = 2 * sum(
        count * _seconds(_product(torch, dtype, rows, *shape)) for shape, count in shapes.items()
    )
    linear = {shape: count for shape, count in shapes.items() if config.vocab_size not in shape}
    unpacking = 2 * sum(count * _seconds(_dequantization(torch, dtype, *shape)) for shape, count in linear.items())
    work = 4 * rows * sum(count * a * b for (a, b), count in shapes.items())
    return {
        "tokens_per_second": rows / (forward_and_back + unpacking),
        "peak_memory_gb": peak_memory_gb("cpu"),
        "tokens": tokens,
        "gflop_per_second": work / forward_and_back / 1e9,
        "unpacking_seconds_per_step": unpacking,
    }


def _shapes(config: Any) -> dict[tuple[int, int], int]:
    """(in, out) of each linear layer of a Llama, and how often the model has it; the head once."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    key_value = hidden // config.num_attention_heads * config.num_key_value_heads
    return {
        (hidden, hidden): 2 * layers,
        (hidden, key_value): 2 * layers,
        (hidden, inner): 2 * layers,
        (inner, hidden): layers,
        (hidden, config.vocab_size): 1,
    }


def _product(torch: Any, dtype: Any, rows: int, inputs: int, outputs: int) -> Callable[[], Any]:
    left = torch.randn(rows, inputs, dtype=dtype)
    weight = torch.randn(outputs, inputs, dtype=dtype)
    return lambda: torch.nn.functional.linear(left, weight)


def _dequantization(torch: Any, dtype: Any, inputs: int, outputs: int) -> Callable[[], Any]:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(torch.randn(outputs, inputs, dtype=dtype), quant_type="nf4")
    return lambda: dequantize_4bit(packed, state)


def _seconds(work: Callable[[], Any], times: int = 5) -> float:
    """The quickest of some."""
    found = []
    for _ in range(times + 1):  # the first one warms up
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found[1:])
