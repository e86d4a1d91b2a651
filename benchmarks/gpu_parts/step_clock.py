"""When each optimizer step of any trainer ended."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback


class StepClock(TrainerCallback):
    """The times at which training began and at which each optimizer step ended, with all of its kernels."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.times: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._add()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._add()

    def _add(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize()
        self.times.append(time.monotonic())

    def rate(self, tokens: Sequence[int], warmup: int) -> float:
        """Tokens per second without the first steps. tokens: those of each step."""
        return sum(tokens[warmup : len(self.times) - 1]) / (self.times[-1] - self.times[warmup])
