"""Worker of `adapter`: train the weights that the technique changes on `training_data`."""

import importlib.util
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job, Rank
from ft_pipeline.models.attention import reads_end_to_end
from ft_pipeline.models.compute_dtype import compute_dtype, dtype_name, storage_dtype
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.memory.estimate import estimate_experiment
from ft_pipeline.training.memory.rank_share import RankCount, why_not_sharded
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.objectives.targets import HELD_OUT
from ft_pipeline.training.techniques import (
    count_parameters,
    load_weights,
    new_model,
    new_sharded_model,
    save_adapter,
    save_full,
)
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.tokens.sample import sample_rows
from ft_pipeline.training.trainer.acceleration import require_attention, speed_up
from ft_pipeline.training.trainer.arguments import training_arguments
from ft_pipeline.training.trainer.batches import lengths_of
from ft_pipeline.training.trainer.callbacks import ProgressCallback
from ft_pipeline.training.trainer.checkpoints import checkpoint_folder
from ft_pipeline.training.trainer.data_parallel import Ranks, join_ranks
from ft_pipeline.training.trainer.evaluations import EarlyStopping, evaluation_intervals
from ft_pipeline.training.trainer.memory_usage import memory_gb, peak_memory_gb
from ft_pipeline.training.trainer.model_probe import require_causal, require_room_for_prompt
from ft_pipeline.training.trainer.pruning import add_pruning
from ft_pipeline.training.trainer.token_trainer import TokenTrainer, TrainerSetup, train_or_resume

_OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "out of memory")
_DISK_FULL_TEXTS = ("No space left on device", "PytorchStreamWriter failed")
"""Parts of the messages of torch's and safetensors' errors, which have no error number."""
_MEASURES = ("eval_reward", "eval_own_answers")
"""Held-out measures other than the loss: how their keys in the log begin."""


def run(job: Job) -> dict[str, Any]:
    """Write a PEFT folder (`full`: the whole model), held_out.json and metrics.jsonl.

    Inputs: training_data, base_model, optionally `start`, an adapter of the same shape to continue from, and `teacher`,
    the model that reads the student's answers if it is not the base model. The reference model of dpo is the one that
    training starts from.

    Several ranks train together, and rank 0 writes. Training resumes from the newest valid checkpoint in `job.work`.
    UserError if the token audit did not pass, the loss is not finite, or memory or disk run out. Summary: parameters,
    steps, best step, best and first held-out loss, last training loss, tokens per second, seconds, peak memory (GB) of
    one process and its memory before the model was loaded, whether it stopped early, the step it resumed from, the
    number of processes, the type of products, whether rows had no padding; for grpo the first and best held-out
    rewards; for on-policy distillation the first and best divergence on own answers.
    """
    settings = _read_settings(job)
    require_trackers(settings.training.report_to)
    require_shardable(settings, job.rank)
    require_attention(settings.training.attn_implementation, job.device)
    rows = {split: read_split(job.inputs["training_data"], split) for split in ("train", "validation")}
    require_memory(settings, job, rows["train"])
    started, memory_before_gb = time.monotonic(), memory_gb(job.device)
    with _as_user_errors(settings), join_ranks(job.rank, job.device) as ranks:
        model = _load_model(job, settings, rows, ranks)
        padding_free = reads_end_to_end(model)
        counts = count_parameters(model)
        job.report.log(_describe_start(settings, counts, ranks))
        trainer = _new_trainer(job, settings, model, rows, ranks)
        for note in trainer.notes:
            job.report.log(note)
        early_stopping = EarlyStopping(settings.training.early_stopping_patience)
        trainer.add_callback(early_stopping)
        trainer.add_callback(ProgressCallback(job.report))
        pruning = add_pruning(trainer, job)
        resumed_from_step = train_or_resume(trainer, early_stopping)
        if pruning:
            pruning.require_kept(trainer, time.monotonic() - started)
        if ranks.is_first:
            _save(trainer, settings, job)
    return {
        **counts,
        **_summarize(trainer, time.monotonic() - started, job.device),
        "memory_before_gb": memory_before_gb,
        "resumed_from_step": resumed_from_step,
        "processes": job.rank.count,
        "computed_in": dtype_name(_product_dtype(settings, job.device)),
        "padding_free": padding_free,
    }


def _load_model(job: Job, settings: ExperimentSettings, rows: dict[str, list[dict[str, Any]]], ranks: Ranks) -> Any:
    """Return the model ready to train. UserError if the trainer does not support it."""
    base, start = job.inputs["base_model"], job.inputs.get("start")
    if ranks.sharded:
        model = new_sharded_model(base, settings, job.device, ranks, start)
    else:
        model = new_model(base, settings, job.device, start)
    ranks.run(require_causal, model)
    require_room_for_prompt(model, rows)
    speed_up(model, settings.training, job.device, ranks)
    return model


def _summarize(trainer: TokenTrainer, seconds: float, device: str) -> dict[str, Any]:
    """Return steps, losses, speed and memory of a training that took `seconds`."""
    history = trainer.state.log_history
    held_out = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return {
        **_held_out_measures(trainer),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "best_eval_loss": trainer.state.best_metric,
        "first_eval_loss": held_out[0],
        "train_loss": next(entry["loss"] for entry in reversed(history) if "loss" in entry),
        "tokens_per_second": trainer.meter.tokens_per_second,
        "seconds": seconds,
        "peak_memory_gb": peak_memory_gb(device),
        "stopped_early": trainer.state.global_step < trainer.state.max_steps,
    }


def _held_out_measures(trainer: TokenTrainer) -> dict[str, float]:
    """Return the held-out rewards, or the divergence on own answers, before the first step and at the best step; none
    if the objective has neither."""
    entries = [entry for entry in trainer.state.log_history if any(name in entry for name in _MEASURES)]
    best = [entry for entry in entries if entry["step"] == trainer.state.best_global_step]
    return {
        f"{when}_{name}": value
        for when, entry in zip(("first", "best"), [*entries[:1], *best], strict=False)
        for name, value in entry.items()
        if name.startswith(_MEASURES)
    }


def _read_settings(job: Job) -> ExperimentSettings:
    """Return the settings of the spec, with those that it omits because no result depends on them
    (`training.report_to`)."""
    experiment = job.config["experiment"]
    trackers = {key: job.handling[key] for key in ("report_to",) if key in job.handling}
    return ExperimentSettings.model_validate({**experiment, "training": {**experiment["training"], **trackers}})


def _describe_start(settings: ExperimentSettings, counts: dict[str, Any], ranks: Ranks) -> str:
    """Return the line that is logged at the start."""
    share = f"{counts['trainable_params']:,} of {counts['total_params']:,} parameters are trainable"
    rate = f"learning rate {settings.training.learning_rate:g}"
    line = f"{settings.technique}: {share} ({counts['trainable_share']:.2%}), {rate}"
    if ranks.are_several:
        sharding = "FSDP2" if ranks.sharded else "DDP"
        budget, rows = settings.training.tokens_per_batch, settings.training.per_device_train_batch_size
        size = f"{rows} rows" if budget is None else f"up to {budget:,} tokens"
        line += f"; {ranks.count} processes ({sharding}) share each batch of {size}"
    return line


def _new_trainer(
    job: Job, settings: ExperimentSettings, model: Any, rows: dict[str, Any], ranks: Ranks
) -> TokenTrainer:
    """Return the trainer of the objective. rows: those of each split."""
    dtype = _product_dtype(settings, job.device)
    arguments = training_arguments(settings.training, job.work / "checkpoints", job.device, dtype)
    trainer_class = OBJECTIVES[settings.objective].trainer
    lengths = lengths_of(rows["train"], trainer_class.length_columns)
    arguments.eval_steps, arguments.save_steps = evaluation_intervals(settings.training, lengths)
    validation = _sample_validation(job, settings, rows["validation"])
    tokenizer = load_tokenizer(job.inputs["base_model"])
    setup = TrainerSetup(settings, model, tokenizer, rows["train"], validation, arguments, ranks)
    trainer: TokenTrainer = trainer_class.for_experiment(setup, **_further_arguments(job, settings))
    return trainer


def _further_arguments(job: Job, settings: ExperimentSettings) -> dict[str, Any]:
    """Return the further arguments of the trainers of grpo and of on-policy distillation."""
    if "rewards" in job.config:
        return {"rewards": job.config["rewards"]}
    if not settings.is_on_policy:
        return {}
    base, teacher = job.inputs["base_model"], job.inputs.get("teacher")
    # LoRA without its adapter is the base model. That of qlora is in 4 bit, and `full` changes it: they need a copy.
    return {"base": base, "teacher": teacher if settings.technique == "lora" else teacher or base}


def _sample_validation(
    job: Job, settings: ExperimentSettings, validation: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the validation rows that are evaluated during training."""
    sampled = sample_rows(validation, settings.training.eval_rows)
    if len(sampled) < len(validation):
        job.report.log(f"held-out losses use {len(sampled):,} of {len(validation):,} validation rows")
    return sampled


def _product_dtype(settings: ExperimentSettings, device: str) -> torch.dtype:
    """Return the type in which products run."""
    return torch.bfloat16 if settings.training.pure_bf16 else compute_dtype(device)


def _save(trainer: TokenTrainer, settings: ExperimentSettings, job: Job) -> None:
    """Write the best weights, their held-out values and the log history of the training."""
    best = checkpoint_folder(Path(trainer.args.output_dir), trainer.state.best_global_step)
    base = job.inputs["base_model"]
    if settings.technique == "full":
        sharded = trainer.ranks.sharded
        model = load_model(base, "cpu", dtype=storage_dtype(base)) if sharded else trainer.model
        load_weights(model, best)
        save_full(model, job.out, base)
    else:
        save_adapter(best, job.out, base)
    if held_out := trainer.held_out.document():
        (job.out / HELD_OUT).write_text(json.dumps(held_out), encoding="utf-8")
    lines = [json.dumps(entry, sort_keys=True) for entry in trainer.state.log_history]
    (job.out / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def require_shardable(settings: ExperimentSettings, rank: Rank) -> None:
    """Raise UserError for settings that FSDP2 does not support."""
    if rank.sharded and (reason := why_not_sharded(settings)) is not None:
        raise UserError(reason)


def require_memory(settings: ExperimentSettings, job: Job, rows: Sequence[dict[str, Any]]) -> None:
    """Raise UserError, before any weight is loaded, if the GPU has less memory than the lower bound of the estimate."""
    if not job.device.startswith("cuda"):
        return
    gpu_memory_gb = torch.cuda.get_device_properties(job.device).total_memory / 1e9
    configs: dict[str, dict[str, Any]] = {
        name: json.loads((job.inputs[name] / "config.json").read_text(encoding="utf-8"))
        for name in ("base_model", "teacher")
        if name in job.inputs
    }
    longest = max(len(row["input_ids"]) for row in rows)
    ranks = RankCount(job.rank.count, job.rank.sharded)
    config, teacher = configs["base_model"], configs.get("teacher")
    estimate = estimate_experiment(settings, config, longest, gpu_memory_gb, ranks=ranks, teacher=teacher)
    if not estimate["possible"]:
        raise UserError(
            f"Training needs at least {estimate['lower_bound_gb']:.1f} GB, and this GPU has {gpu_memory_gb:.1f} GB. "
            f"To make it fit, {'; or '.join(estimate['advice'])}."
        )


def require_trackers(names: Sequence[str]) -> None:
    """Raise UserError if a tracker of `training.report_to` is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"training.report_to names {name}, which is not installed. Run `pip install {name}`, or remove it."
            )


@contextmanager
def _as_user_errors(settings: ExperimentSettings) -> Iterator[None]:
    """Replace errors that a user can fix with one clear UserError. Checkpoints are kept."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, SafetensorError) as error:
        text = str(error)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
            part in text for part in _OUT_OF_MEMORY_TEXTS
        ):
            raise _out_of_memory(settings) from error
        if any(part in text for part in _DISK_FULL_TEXTS):
            raise UserError(
                "The disk is full. Free some space, and run again to resume from the last checkpoint."
            ) from error
        raise


def _out_of_memory(settings: ExperimentSettings) -> UserError:
    """Return the error of a training that ran out of memory, with the settings that would take less."""
    batch, budget = settings.training.per_device_train_batch_size, settings.training.tokens_per_batch
    advice = []
    if budget is not None:
        advice.append(f"halve tokens_per_batch (now {budget}) and double gradient_accumulation_steps")
    elif batch > 1:
        advice.append(f"halve per_device_train_batch_size (now {batch}) and double gradient_accumulation_steps")
    if not settings.training.gradient_checkpointing:
        advice.append("set gradient_checkpointing: true")
    lighter = {"full": "lora", "lora": "qlora"}.get(settings.technique)
    if lighter:
        advice.append(f"use technique: {lighter}")
    advice.append("choose a smaller base_model")
    return UserError(f"Training ran out of memory. To use less, {', or '.join(advice)}.")
