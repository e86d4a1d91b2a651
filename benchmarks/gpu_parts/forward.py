"""The models' predictions on the device against those of the CPU in float32, and torch's attention kernels.

The KL divergence of the distributions finds errors that a mean loss hides: its first digits are those of any model.
"""

import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from gpu_parts.bench import Bench, Findings
from gpu_parts.trainings import DTYPE_VARIABLE

_LIMIT, _FOUR_BIT_LIMIT = 1e-6, 2e-4
"""KL(CPU in float32 || device in float32) in nats per token. Two devices may round a weight to neighboring values of
NF4."""
_SMALL_16_BIT_LIMIT, _16_BIT_LIMIT = 3e-4, 1e-2
"""The same if the device computes in 16 bit: two to four times what bfloat16 on a CPU shows for the small models, and
for models with many layers."""
_LARGE_ROWS, _ROWS = 2, 12
_WRONG_MODEL = "control: a matrix of one layer that is 5 % too large is found"
_ATTENTION_LIMIT = 0.02
"""Largest difference of the mean absolute output of two kernels in 16 bit, as a share."""


def measure(bench: Bench) -> Findings:
    """The part `forward`."""
    findings = Findings()
    device = bench.torch_device
    real = () if bench.is_tiny else ("embedded",)  # a trial has it in a part of its own
    names = [name for name in ("small", "small_qwen", "llama_1b", "qwen_1b", *real) if bench.has_model(name)]
    wanted = [
        (name, dtype, quantized)
        for name in names
        for quantized in ((False, True) if not name.endswith("_1b") else (False,))
        for dtype in bench.device_dtypes
    ]
    items = [item(bench, name, name, dtype, device, quantized) for name, dtype, quantized in wanted]
    items.append(item(bench, "small", "small_wrong", "float32", device, False))
    items.append(item(bench, "small", "small_wrong", bench.device_dtypes[1], device, False))
    *outcomes, wrong, wrong_16_bit = bench.run_each("forward", items)
    for (name, dtype, quantized), outcome in zip(wanted, outcomes, strict=True):
        label = f"{name}{' in 4 bit' if quantized else ''}, {dtype}"
        if (result := findings.taken(label, outcome)) is None:
            continue
        findings.check(f"{label}: KL", result["kl"], _limit(name, result["computed_in"], quantized))
        findings.row("distributions against the CPU", model=label, **result)
    for label, outcome in ((_WRONG_MODEL, wrong), (f"{_WRONG_MODEL} in 16 bit", wrong_16_bit)):
        if result := findings.taken(label, outcome):
            findings.check(label, result["kl"], _limit("small", result["computed_in"], False), at_least=True)
    _measure_attention(bench, findings)
    return findings


def _limit(model: str, computed_in: str, quantized: bool) -> float:
    """The largest KL that a check allows."""
    if computed_in != "float32":
        return _SMALL_16_BIT_LIMIT if model.startswith("small") else _16_BIT_LIMIT
    return _FOUR_BIT_LIMIT if quantized else _LIMIT


def item(bench: Bench, reference: str, measured: str, dtype: str, device: str, quantized: bool) -> dict[str, Any]:
    """What the task `forward` needs."""
    return {
        "reference": bench.model(reference),
        "measured": bench.model(measured),
        "dtype": dtype,
        "device": device,
        "quantized": quantized,
        "rows": _LARGE_ROWS if measured.endswith("_1b") else _ROWS,
    }


def compare(item: dict[str, Any]) -> dict[str, Any]:
    """KL and losses of the model in `measured` on the device, against the one in `reference` on the CPU in float32."""
    from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name
    from ft_pipeline.training.merging.equivalence import kl_divergence

    held_out, expected = _reference(item["reference"], item["rows"], item["quantized"])
    found = held_out.load_and_measure(
        partial(_load, item["measured"], item["device"], item["dtype"], item["quantized"])
    )
    return {
        "kl": kl_divergence(expected, found),
        "loss": found.loss,
        "cpu_loss": expected.loss,
        "computed_in": dtype_name(compute_dtype(item["device"])),
    }


@lru_cache(maxsize=1)
def _reference(folder: str, count: int, quantized: bool) -> tuple[Any, Any]:
    """The rows, and the measurement on the CPU, which several items share."""
    from gpu_parts.models import random_rows

    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.training.merging.equivalence import HeldOutRows

    rows = [{**row, "id": str(number)} for number, row in enumerate(random_rows(Path(folder), count, 24, 96))]
    held_out = HeldOutRows(rows, load_tokenizer(Path(folder)).pad_token_id)
    return held_out, held_out.load_and_measure(partial(_load, folder, "cpu", "float32", quantized))


def _load(folder: str, device: str, dtype: str, quantized: bool) -> Any:
    from ft_pipeline.models.load import keep_weights_unpacked, load_model
    from ft_pipeline.settings.training import QuantizationSettings

    os.environ[DTYPE_VARIABLE] = dtype
    model = load_model(Path(folder), device, quantization=QuantizationSettings().model_dump() if quantized else None)
    keep_weights_unpacked(model)
    return model


def _measure_attention(bench: Bench, findings: Findings) -> None:
    """torch's kernels of attention against its plain one."""
    for name in ("flash", "efficient", "variable length"):
        (outcome,) = bench.run_each("attention", [{"kernel": name, "device": bench.torch_device}])
        if result := findings.taken(f"attention: {name}", outcome):
            findings.check(f"attention: {name}, output", result["output"], _ATTENTION_LIMIT)
            findings.check(f"attention: {name}, gradient", result["gradient"], _ATTENTION_LIMIT)


def compare_attention(item: dict[str, Any]) -> dict[str, float]:
    """The mean differences of output and gradient of a kernel from the plain computation in 32 bit, as shares."""
    import torch

    from ft_pipeline.models import attention
    from ft_pipeline.models.compute_dtype import compute_dtype

    device = torch.device(item["device"])
    dtype = compute_dtype(item["device"])
    generator = torch.Generator().manual_seed(0)
    lengths = [256] if item["kernel"] != "variable length" else [3, 130, 64, 59]
    shapes = [(heads, sum(lengths), 64) for heads in (8, 2, 2)]
    states = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    wide = [state.detach().float().requires_grad_() for state in states]
    expected = attention._attend_row_by_row(*wide, 0.125, bounds, None)
    expected.square().mean().backward()
    found = _attend(item["kernel"], states, bounds, max(lengths))
    found.float().square().mean().backward()
    gradients = [_share(state.grad, other.grad) for state, other in zip(states, wide, strict=True)]
    return {"output": _share(found, expected), "gradient": max(gradients)}


def _attend(kernel: str, states: Any, bounds: Any, longest: int) -> Any:
    """The output [1, tokens, heads, width] of one kernel of torch."""
    from gpu_parts.bench import Skipped
    from torch.cuda import get_device_capability
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    from ft_pipeline.models import attention

    query, key, value = states
    if kernel == "variable length":
        variable_length = attention._kernel_for(states[0].device)
        if variable_length is None:
            raise Skipped("torch has no variable-length kernel for this device")
        return attention._attend_by_kernel(variable_length, query, key, value, 0.125, bounds, longest)
    groups = len(query) // len(key)
    keys, values = (state.repeat_interleave(groups, dim=0)[None] for state in (key, value))
    backend = SDPBackend.FLASH_ATTENTION if kernel == "flash" else SDPBackend.EFFICIENT_ATTENTION
    if kernel == "efficient" and not query.is_cuda:
        raise Skipped("torch has this kernel for GPUs only")
    if kernel == "flash" and query.is_cuda and get_device_capability(query.device) < (8, 0):
        raise Skipped("this kernel needs a GPU of Ampere or newer")
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(query[None], keys, values, is_causal=True, scale=0.125).transpose(1, 2)


def _share(found: Any, expected: Any) -> float:
    difference = (found.float() - expected).abs().mean()
    return float(difference / expected.abs().mean())
