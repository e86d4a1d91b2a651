"""Held-out losses during training: after which steps they are computed, and when they stop the run early."""

import math
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from ft_pipeline.settings.training import TrainingSettings
from ft_pipeline.training.trainer.batches import TokenBatches

_DECAYED_SHARE = 0.1
"""Share of the peak learning rate to which a schedule must fall before a run may stop early."""
_CONSTANT_SCHEDULES = ("constant", "constant_with_warmup")
"""Schedules that never fall. With these a run may stop early after the warmup."""


def evaluation_intervals(training: TrainingSettings, lengths: Sequence[int]) -> tuple[int, int]:
    """Return the optimizer steps between two evaluations, and between two checkpoints. lengths: tokens of each row."""
    eval_steps = training.eval_steps or _default_eval_steps(training, lengths)
    return eval_steps, training.save_steps or eval_steps


def steps_per_epoch(training: TrainingSettings, lengths: Sequence[int]) -> int:
    """Return the optimizer steps of one epoch, as the Trainer counts them. Several ranks divide the same batches."""
    if training.tokens_per_batch is None:
        batches = math.ceil(len(lengths) / training.per_device_train_batch_size)
    else:
        batches = len(TokenBatches(lengths, training.tokens_per_batch, training.seed))
    return math.ceil(batches / training.gradient_accumulation_steps)


def _default_eval_steps(training: TrainingSettings, lengths: Sequence[int]) -> int:
    """Return the steps between evaluations if the settings do not set them: `evals_per_epoch` of them in an epoch."""
    steps = steps_per_epoch(training, lengths)
    if training.max_steps > 0:
        steps = min(steps, training.max_steps)
    return math.ceil(steps / training.evals_per_epoch)


def losses_by_step(state: TrainerState) -> dict[int, float]:
    """Return the held-out losses so far, by step, without that of the untrained model. Checkpoints contain them."""
    return {entry["step"]: entry["eval_loss"] for entry in state.log_history if entry["step"] and "eval_loss" in entry}


def best_steps(state: TrainerState) -> list[int]:
    """Return the steps whose held-out loss was lower than all before, oldest first. The last one is the best."""
    best: list[int] = []
    losses = losses_by_step(state)
    for step, loss in losses.items():
        if not best or loss < losses[best[-1]]:
            best.append(step)
    return best


class EarlyStopping(TrainerCallback):
    """Keeps the best evaluated step, evaluates the last step, and stops a run that no longer improves.

    It uses the log history, which checkpoints contain, so that a resumed run decides the same. Held-out losses are sums
    over all ranks, so that all ranks decide the same.
    """

    def __init__(self, patience: int | None) -> None:
        """patience: stop after this many evaluations without a new best; None for no early stopping."""
        self._patience = patience

    def should_stop(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Whether the best held-out loss is `patience` evaluations old, and the schedule has decayed."""
        losses = list(losses_by_step(state).values())
        if self._patience is None or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= self._patience and _has_decayed(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if best_steps(state)[-1:] == [state.global_step]:
            control.should_save = True
        if self.should_stop(args, state):
            control.should_training_stop = control.should_save = True


def _has_decayed(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether warmup is over and, unless the schedule is constant, the learning rate is at most a tenth of its peak."""
    if state.global_step <= args.get_warmup_steps(state.max_steps):
        return False
    if args.lr_scheduler_type in _CONSTANT_SCHEDULES:
        return True
    rates = [entry["learning_rate"] for entry in state.log_history if "learning_rate" in entry]
    return bool(rates) and rates[-1] <= _DECAYED_SHARE * args.learning_rate
