"""Current and peak memory of this process."""

import resource
import sys

import psutil


def memory_gb(device: str) -> float:
    """Return the gigabytes (10⁹ bytes) in use: allocated on a GPU, resident on a CPU."""
    if device != "cpu":
        import torch

        return torch.cuda.memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


def peak_memory_gb(device: str) -> float:
    """Return the maximum of `memory_gb` since the process began."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
