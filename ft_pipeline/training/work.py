"""What the steps of an experiment have to compute, from counts of rows and tokens alone.

    operations of a trained token = k · parameters + 6 · layers · width · tokens per row
    operations of a token that is read = 2 · parameters + 2 · layers · width · tokens per row

Parameters are those that each token is multiplied with. k is 6 if all weights are trained and 4 for adapters, whose
frozen weights need no gradients. The last term is attention. To write one token of each answer of a batch, the weights
are read once: these are the decoding steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.settings.distill import DistillSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.training import TrainingSettings
from ft_pipeline.training.memory.layer_sizes import ModelShape, read_shape
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.objectives.spec import AnswerGroups

WEIGHT_BYTES = 2
"""Bytes of a parameter that is read to write a token: weights are computed with in 16 bit."""
MERGE_ROWS = 512
"""Maximum number of validation rows that a merge reads (merging/equivalence.py)."""
MERGE_MODELS = {"lora": 2, "qlora": 5}
"""Number of models that read them: adapter and merged model; for qlora also the base in 4 and 16 bit, and the merged
model in 4 bit. The other techniques merge nothing."""


@dataclass(frozen=True)
class Work:
    """What a step has to compute."""

    operations: float
    tokens: float = 0
    """Tokens that are trained on."""
    steps: int = 0
    """Optimizer steps."""
    decoding_steps: int = 0
    """How often all weights are read to write one token of each answer of a batch."""
    weight_bytes: float = 0
    """Bytes that are then read."""


def training_work(
    settings: ExperimentSettings,
    config: dict[str, Any],
    audit: Mapping[str, Any],
    steps: int | None = None,
    teacher: dict[str, Any] | None = None,
) -> Work:
    """Return the work of a training on audited rows, its evaluations included.

    steps: those that were run; None: all that the settings plan. teacher: the config of the model that reads the
    student's answers, if it is another one.
    """
    training, shape = settings.training, read_shape(config)
    objective = OBJECTIVES[settings.objective]
    sequences = objective.sequences_per_row
    rows, held_out = (_rows_of(audit, split) // sequences for split in ("train", "validation"))
    per_row = tokens_per_row(audit) * sequences
    batch = rows_per_batch(training, per_row) * training.gradient_accumulation_steps
    per_epoch = max(1, math.ceil(rows / batch))
    steps = steps or (training.max_steps if training.max_steps > 0 else per_epoch * training.num_train_epochs)
    epochs, rest = divmod(steps, per_epoch)
    seen = epochs * rows + min(rest * batch, rows)
    evaluations = 1 + math.ceil(steps / (training.eval_steps or _default_eval_steps(training, per_epoch)))
    evaluated = min(training.eval_rows, held_out)
    if (groups := objective.groups(settings)) is not None:
        return _work_of_groups(settings, groups, shape, audit, steps, seen, evaluations, evaluated)
    length = per_row / sequences
    operations = seen * per_row * _trained(shape, settings.technique, length)
    read = evaluations * evaluated + (rows + held_out if objective.has_reference else 0)
    work = Work(operations + read * per_row * _read(shape, length), seen * per_row, steps)
    if settings.distill is None or not settings.is_on_policy:
        return work
    own = settings.distill.on_policy * seen + evaluations * evaluated
    batches = settings.distill.on_policy * steps * training.gradient_accumulation_steps
    batches += evaluations * math.ceil(evaluated / training.per_device_train_batch_size)
    of_teacher = _read(read_shape(teacher), length) if teacher else _read(shape, length)
    return replace(
        work,
        operations=work.operations + own * length * (_read(shape, length) + of_teacher),
        decoding_steps=math.ceil(batches) * settings.distill.max_new_tokens,
        weight_bytes=shape.params * WEIGHT_BYTES,
    )


def rows_per_batch(training: TrainingSettings, tokens_per_row: float) -> int:
    """Return how many rows of average length are in a batch."""
    if training.tokens_per_batch is None:
        return training.per_device_train_batch_size
    return max(1, int(training.tokens_per_batch / tokens_per_row))


def _work_of_groups(
    settings: ExperimentSettings,
    groups: AnswerGroups,
    shape: ModelShape,
    audit: Mapping[str, Any],
    steps: int,
    prompts: int,
    evaluations: int,
    evaluated: int,
) -> Work:
    """Return the work where the model draws answers: each prompt gets several of up to `max_new_tokens`, which are
    trained on. An evaluation answers each of its prompts once."""
    training = settings.training
    prompt = (audit["tokens"] - audit["trained_tokens"]) / max(1, sum(audit["rows"].values()))
    length = prompt + groups.max_new_tokens
    trained = prompts * groups.copies * length
    kept_start = _read(shape, length) if groups.keeps_start else 0.0
    written = (prompts * groups.copies + evaluations * evaluated) * length
    batches = math.ceil(evaluated / (training.per_device_train_batch_size * groups.copies))
    draws = steps * training.gradient_accumulation_steps + evaluations * batches
    return Work(
        trained * (_trained(shape, settings.technique, length) + kept_start) + written * _read(shape, length),
        trained,
        steps,
        draws * groups.max_new_tokens,
        shape.params * WEIGHT_BYTES,
    )


def teacher_work(distill: DistillSettings, config: dict[str, Any], prompts: int, prompt_tokens: float) -> Work:
    """Return the work of a teacher of `distill`: it writes its answers, and reads them once more for its distributions.

    config: of the teacher. prompt_tokens: of a whole prompt, with the teacher's variant.
    """
    shape, answers = read_shape(config), prompts * distill.answers_per_prompt
    length = prompt_tokens + distill.max_new_tokens
    return Work(
        2 * answers * length * _read(shape, length),
        decoding_steps=math.ceil(answers / distill.batch_size) * distill.max_new_tokens,
        weight_bytes=shape.params * WEIGHT_BYTES,
    )


def merge_work(settings: ExperimentSettings, config: dict[str, Any], audit: Mapping[str, Any]) -> Work:
    """Return the work of the checks of a merge: several models read the validation rows."""
    rows, length = min(MERGE_ROWS, _rows_of(audit, "validation")), tokens_per_row(audit)
    models = MERGE_MODELS.get(settings.technique, 0)
    return Work(models * rows * length * _read(read_shape(config), length))


def scoring_work(config: dict[str, Any], models: int, rows: int, length: float, answer: int, batch: int) -> Work:
    """Return the work of scoring: each model reads each test row with its reference, and answers it.

    length: tokens of a row. answer: the longest answer in tokens.
    """
    shape = read_shape(config)
    return Work(
        models * rows * (2 * length + answer) * _read(shape, length),
        decoding_steps=models * math.ceil(rows / batch) * answer,
        weight_bytes=shape.params * WEIGHT_BYTES,
    )


def tokens_per_row(audit: Mapping[str, Any]) -> float:
    """Return the mean tokens of an audited row."""
    tokens: int = audit["tokens"]
    return tokens / max(1, sum(audit["rows"].values()))


def trained_tokens_per_row(audit: Mapping[str, Any]) -> float:
    """Return the mean trained tokens of an audited row: those of its answers."""
    trained: int = audit["trained_tokens"]
    return trained / max(1, sum(audit["rows"].values()))


def _rows_of(audit: Mapping[str, Any], split: str) -> int:
    return sum(count for name, count in audit["rows"].items() if name.endswith(f"/{split}"))


def _default_eval_steps(training: TrainingSettings, per_epoch: int) -> int:
    """As in training/trainer/evaluations.py, which imports torch."""
    steps = min(per_epoch, training.max_steps) if training.max_steps > 0 else per_epoch
    return math.ceil(steps / training.evals_per_epoch)


def _multiplied(shape: ModelShape) -> float:
    experts = shape.layers * shape.active_experts * 3 * shape.hidden * shape.expert_width
    return shape.matrix_params + shape.vocabulary * shape.hidden + experts


def _trained(shape: ModelShape, technique: str, length: float) -> float:
    """Return the operations of a trained token."""
    return (6 if technique == "full" else 4) * _multiplied(shape) + 6 * shape.layers * shape.hidden * length


def _read(shape: ModelShape, length: float) -> float:
    """Return the operations of a token that is read."""
    return 2 * _multiplied(shape) + 2 * shape.layers * shape.hidden * length
