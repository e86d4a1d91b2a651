"""What looks on while a model trains: its speed, its progress, and when to evaluate and to stop."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerState

from ft_pipeline.job import Reporter
from ft_pipeline.training.usage import memory_gb


class Meter:
    """Tokens read by training steps (padding left out), and the seconds that those took."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._entered = 0.0

    def __enter__(self) -> None:
        self._entered = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._entered

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Evaluations(TrainerCallback):
    """Evaluate after the last step too, and stop when the held-out loss has not fallen for `patience` evaluations.

    It counts in the log history, which checkpoints carry, and so is the same after a resume.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def exhausted(self, state: TrainerState) -> bool:
        """Whether the best held-out loss lies `patience` evaluations back."""
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry and entry["step"] > 0]
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self._patience

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.exhausted(state):
            control.should_training_stop = True


class Progress(TrainerCallback):
    """Report each step with loss, speed, time left and memory."""

    def __init__(self, report: Reporter, meter: Meter, device: str) -> None:
        self._report = report
        self._meter = meter
        self._device = device
        self._last_eval: float | None = None
        self._first_step: int | None = None
        self._started = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._first_step is None:
            self._first_step, self._started = state.global_step, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            self._last_eval = logs["eval_loss"]
            self._report.log(f"step {state.global_step}: held-out loss {self._last_eval:.4f} nats per token")
        if "loss" not in logs:
            return
        done = state.global_step - (self._first_step or 0)
        values = {
            "loss": logs["loss"],
            "tokens_per_second": self._meter.tokens_per_second,
            "eta_seconds": (time.monotonic() - self._started) / max(1, done) * (state.max_steps - state.global_step),
            "memory_gb": memory_gb(self._device),
        }
        logs |= {name: values[name] for name in ("tokens_per_second", "memory_gb")}
        if self._last_eval is not None:
            values["eval_loss"] = self._last_eval
        self._report.progress(state.global_step, state.max_steps, **values)
