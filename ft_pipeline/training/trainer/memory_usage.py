"""How much memory this process holds, and held at most."""

import resource
import sys

import psutil


def memory_gb(device: str) -> float:
    """Gigabytes (10⁹) in use: allocated on the GPU, resident on a CPU."""
    if device != "cpu":
        import torch

        return torch.cuda.memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


def peak_memory_gb(device: str) -> float:
    """The most that `memory_gb` has been since the process began."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
