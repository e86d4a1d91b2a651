"""Callbacks that measure speed and report progress during training."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from ft_pipeline.job import Reporter


class Throughput(TrainerCallback):
    """Counts the tokens that optimizer steps read (without padding) and the seconds they take, from fetching the rows
    to updating the weights. Evaluations and checkpoints do not count."""

    def __init__(self, device: torch.device) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._device = device
        self._step_started = 0.0

    def start_step(self) -> None:
        """Start timing an optimizer step."""
        self._step_started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # kernels still run when the calls that start them return
        self.seconds += time.monotonic() - self._step_started

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class ProgressCallback(TrainerCallback):
    """Reports each step with loss, speed, time left and memory."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._last_eval: float | None = None
        self._first_step: int | None = None
        self._started = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._first_step is None:
            self._first_step, self._started = state.global_step, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            self._last_eval = logs["eval_loss"]
            self._report.log(f"step {state.global_step}: {_describe_held_out(logs)}")
        if "loss" not in logs:
            return
        done = state.global_step - (self._first_step or 0)
        values = {
            "loss": logs["loss"],
            "tokens_per_second": logs["tokens_per_second"],
            "eta_seconds": (time.monotonic() - self._started) / max(1, done) * (state.max_steps - state.global_step),
            "memory_gb": logs["memory_gb"],
        }
        if self._last_eval is not None:
            values["eval_loss"] = self._last_eval
        if "reward" in logs:
            values["reward"] = logs["reward"]
        self._report.progress(state.global_step, state.max_steps, **values)


def _describe_held_out(logs: Mapping[str, float]) -> str:
    """Return the held-out reward with those of its metrics, or the held-out loss."""
    if "eval_reward" not in logs:
        return f"held-out loss {logs['eval_loss']:.4f} nats per token"
    beginning = "eval_reward/"
    parts = [f"{name.removeprefix(beginning)} {logs[name]:.3f}" for name in logs if name.startswith(beginning)]
    return f"held-out reward {logs['eval_reward']:.3f} ({', '.join(parts)}), {logs['eval_cut_off']:.0%} cut off"
