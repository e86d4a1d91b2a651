"""The machine that a result was measured on: its CPU by name, what it can do, and what models compute in there."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil

sys.path.append(str(Path(__file__).parent.parent))  # some scripts use what the tests build; the tests are not installed

EMULATION = (
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES", "ARROW_USER_SIMD_LEVEL",
)  # fmt: skip
"""Environment variables that make a large CPU compute as a smaller one does: torch's, then numpy's and Arrow's."""
_X86 = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_ARM = ("asimd", "bf16", "sve", "sve2")
INSTRUCTIONS = (*_X86, *_ARM)
"""The instruction sets that decide how fast a matrix product is, by Linux's names."""


def describe() -> dict[str, Any]:
    """CPU, cores, memory and Python of this machine, without torch.

    `instruction_sets`: those of INSTRUCTIONS that the CPU has; null where the system does not list them (not Linux).
    `emulated_by`: the variables of EMULATION that are set; a result with any is one of the smaller CPU.
    """
    cpu, instructions = _processor()
    return {
        "cpu": cpu,
        "instruction_sets": instructions,
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "python": platform.python_version(),
        "emulated_by": {name: os.environ[name] for name in EMULATION if name in os.environ},
    }


def describe_compute() -> dict[str, Any]:
    """`describe`, and what torch computes in: the compute type and its reason, version, kernels and threads."""
    import torch

    from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name, explain_compute_dtype

    return {
        **describe(),
        "compute_dtype": dtype_name(compute_dtype("cpu")),
        "because": explain_compute_dtype("cpu"),
        "torch": torch.__version__,
        "torch_kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def usable_cores() -> int:
    """The cores that this process may run on; a container may have fewer than the machine."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> tuple[str, list[str] | None]:
    """Name and instruction sets: from /proc/cpuinfo on Linux, where platform.processor() says nothing."""
    path = Path("/proc/cpuinfo")
    facts: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip().lower(), value.strip())
    name = facts.get("model name") or facts.get("hardware") or platform.processor() or platform.machine()
    flags = facts.get("flags", facts.get("features"))
    return name, None if flags is None else [name for name in INSTRUCTIONS if name in flags.split()]
