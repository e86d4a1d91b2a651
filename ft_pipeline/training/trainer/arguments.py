"""Convert the training settings to the arguments of transformers."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments

from ft_pipeline.settings.training import TrainingSettings


@dataclass
class TokenTrainingArguments(TrainingArguments):
    """The arguments of transformers, with one that it does not have."""

    tokens_per_batch: int | None = None
    """TrainingSettings.tokens_per_batch"""


def training_arguments(
    settings: TrainingSettings, folder: Path, device: str, dtype: torch.dtype
) -> TokenTrainingArguments:
    """Return the arguments of transformers for one run. Checkpoints are written to `folder`.

    The steps between evaluations and between checkpoints depend on the rows (see evaluations.evaluation_intervals).
    ValueError if the learning rate is not resolved (learning_rates.with_learning_rate).
    """
    if settings.learning_rate is None:
        raise ValueError("training.learning_rate is null. Resolve it for the size of the base model first.")
    return TokenTrainingArguments(
        output_dir=str(folder),
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        tokens_per_batch=settings.tokens_per_batch,
        per_device_eval_batch_size=2 * settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        optim=settings.optim,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_ratio,  # below 1: a share of the steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        neftune_noise_alpha=settings.neftune_noise_alpha,
        seed=settings.seed,
        remove_unused_columns=False,
        # compute_autocast replaces the Trainer's autocast. Only fp16 uses the Trainer's, for its loss scaling.
        bf16=False,
        fp16=dtype == torch.float16,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        eval_strategy="steps",
        # load_best_model_at_end would need a checkpoint for every evaluation and no others. EarlyStopping and
        # TokenTrainer keep the best checkpoint instead.
        save_strategy="steps",
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=list(settings.report_to) or "none",
    )
