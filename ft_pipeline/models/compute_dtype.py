"""The type in which models compute on this machine: one that the processor multiplies fast.

Two types must not be confused. The *compute type* depends on the machine: weights are loaded in it, products run in it.
The *storage type* depends on the model: its files keep 16 bit wherever it is trained, merged or scored.

`python -m ft_pipeline.models.compute_dtype [--measure]` prints the compute type as JSON, for processes without torch.
"""

import json
import platform
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from ft_pipeline.models.compute_setting import requested_dtype

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The types that FT_COMPUTE_DTYPE can request."""
_PRODUCT_SIZES = {"cpu": (512, 576, 1536), "cuda": (4096, 4096, 4096)}
"""Rows, inputs and outputs of the matrix product that is measured: a layer of a small model; enough to fill a GPU."""


def compute_dtype(device: str) -> torch.dtype:
    """Return the type of loaded weights and of products on `device`. UserError for an unknown FT_COMPUTE_DTYPE.

    The rule measures no time, so that two runs on one machine agree. A GPU uses bf16 if it is native, else fp16 (a T4
    emulates bf16 at a fraction of the speed). For a CPU see `cpu_dtype`.
    """
    requested = requested_dtype()
    if requested != "auto":
        return _DTYPES[requested]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return cpu_dtype()[0]


def compute_autocast(model: Any) -> AbstractContextManager[Any]:
    """Return a context that autocasts to the compute type if the weights of `model` are 32 bit and the compute type is
    not (full fine-tuning). Otherwise autocast is disabled in it."""
    device, dtype = model.device, compute_dtype(str(model.device))
    if model.dtype != torch.float32 or dtype == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype)


def cpu_dtype() -> tuple[torch.dtype, str]:
    """Return the compute type of this CPU, and the reason.

    It is bf16 if oneDNN has kernels for it and the processor has the instructions (AVX-512 BF16, AMX, or bf16 on ARM
    under Linux). oneDNN alone is not enough: it emulates bf16 on older AVX-512 processors. Without kernels a bf16
    product is ten times slower than an fp32 one. fp16 is never fast on a CPU.
    """
    if not onednn_has_bf16():
        return torch.float32, "oneDNN has no bf16 kernels for this CPU"
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        if sys.platform == "linux":
            return torch.bfloat16, "the CPU multiplies bf16 natively"
        return torch.float32, "float32 is the fastest type on this system"
    if _cpu_supports("_is_avx512_bf16_supported") or _cpu_supports("_is_amx_tile_supported"):
        return torch.bfloat16, "the CPU multiplies bf16 natively"
    return torch.float32, "the CPU has no instructions for bf16 products (AVX-512 BF16 or AMX)"


def explain_compute_dtype(device: str) -> str:
    """Return the reason for the choice of `compute_dtype`: a clause for `ft doctor`."""
    if requested_dtype() != "auto":
        return f"FT_COMPUTE_DTYPE={requested_dtype()}"
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "the GPU multiplies bf16 natively" if native else "the GPU has no native bf16"
    return cpu_dtype()[1]


def dtype_name(dtype: torch.dtype) -> str:
    """Return `float32` for torch.float32: the name in records and command lines."""
    return str(dtype).removeprefix("torch.")


def storage_dtype(folder: Path) -> torch.dtype:
    """Return the 16-bit type in which models made from the base model in `folder` are saved: its own, else bf16."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text_config = config.get("text_config") or {}
    name = next(
        (section[key] for section in (config, text_config) for key in ("dtype", "torch_dtype") if section.get(key)),
        None,
    )
    return torch.float16 if name == "float16" else torch.bfloat16


def measured_gflops(seconds: float = 0.4, device: str = "cpu") -> dict[str, float]:
    """Return the GFLOP per second of a matrix product on `device`, by name of the type: those that can be requested,
    and the one that `compute_dtype` chooses. A CPU uses as many threads as torch. Each type takes `seconds`."""
    types = dict.fromkeys([*_DTYPES.values(), compute_dtype(device)])
    return {dtype_name(dtype): _gflops(dtype, seconds, device) for dtype in types}


def _gflops(dtype: torch.dtype, seconds: float, device: str) -> float:
    """Return the GFLOP per second of the fastest of the products that run within `seconds`."""
    rows, inputs, outputs = _PRODUCT_SIZES[device]
    left = torch.ones(rows, inputs, dtype=dtype, device=device)
    weight = torch.ones(outputs, inputs, dtype=dtype, device=device)
    best, deadline = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < deadline:
        started = time.perf_counter()
        torch.nn.functional.linear(left, weight)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * rows * inputs * outputs / best / 1e9


def onednn_has_bf16() -> bool:
    """Whether oneDNN uses bf16 kernels; it follows ONEDNN_MAX_CPU_ISA. False if torch was built without oneDNN."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def _cpu_supports(probe: str) -> bool:
    """Return the result of a probe of torch.cpu; False if this torch does not have the probe."""
    return bool(getattr(torch.cpu, probe, lambda: False)())


def _describe(measure: bool) -> dict[str, Any]:
    """Return the result of compute_setting.query_compute_dtype."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts: dict[str, Any] = {
        "device": device,
        "dtype": dtype_name(compute_dtype(device)),
        "reason": explain_compute_dtype(device),
    }
    if measure:
        facts["gflops"] = measured_gflops(device=device)
    return facts


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_describe("--measure" in sys.argv[1:])) + "\n")
