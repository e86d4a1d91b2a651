"""Stop a training of a search whose held-out loss is behind those of earlier trainings, after each evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.training.trainer.evaluations import losses_by_step

HANDLING = "pruning"
"""Key of the job's handling: the held-out losses of each finished training, evaluation by evaluation."""
PRUNED_FILE = "pruned.json"
"""What a stopped training leaves in its work folder: the losses that it was compared with, steps, seconds, its log."""
STARTUP_TRIALS = 3
"""Number of finished trainings before one is stopped."""
WARMUP_EVALUATIONS = 1
"""Evaluations of a training before it can be stopped."""


class Pruning(TrainerCallback):
    """Optuna's median rule: stop if the best held-out loss so far is higher than the median of the finished trainings
    at the same evaluation. It uses the log history, so that a resumed training decides the same."""

    def __init__(self, finished: Sequence[Sequence[float]], work: Path, is_first: bool) -> None:
        """finished: held-out losses of each finished training. is_first: whether this process writes the record."""
        self._finished = finished
        self._record = work / PRUNED_FILE
        self._is_first = is_first
        self.stopped = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_last = state.global_step >= state.max_steps
        if not is_last and is_behind(list(losses_by_step(state).values()), self._finished):
            self.stopped = control.should_training_stop = True

    def require_kept(self, trainer: Any, seconds: float) -> None:
        """Raise UserError if the training was stopped, after its record is written."""
        if not self.stopped:
            return
        state = trainer.state
        if self._is_first:
            record = {
                HANDLING: self._finished,
                "steps": state.global_step,
                "seconds": seconds,
                "log_history": state.log_history,
            }
            self._record.write_text(json.dumps(record, sort_keys=True), encoding="utf-8")
        raise UserError(
            f"The search stopped this training at step {state.global_step} of {state.max_steps}: its held-out loss is "
            "behind those of the others."
        )


def add_pruning(trainer: Any, job: Job) -> Pruning | None:
    """Add the callback if the training is part of a search."""
    if HANDLING not in job.handling:
        return None
    if trainer.ranks.is_first:  # of another search, or of an earlier state of this one
        (job.work / PRUNED_FILE).unlink(missing_ok=True)
    pruning = Pruning(job.handling[HANDLING], job.work, trainer.ranks.is_first)
    trainer.add_callback(pruning)
    return pruning


def is_behind(losses: Sequence[float], finished: Sequence[Sequence[float]]) -> bool:
    """Whether a training with these held-out losses so far is stopped, by Optuna's median rule."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_EVALUATIONS)
    study = optuna.create_study(direction="minimize", pruner=pruner)
    for curve in finished:
        study.add_trial(
            optuna.trial.create_trial(value=min(curve), intermediate_values=dict(enumerate(curve)))  # complete
        )
    trial = study.ask()
    for number, loss in enumerate(losses):
        trial.report(loss, number)
    return bool(losses) and trial.should_prune()
