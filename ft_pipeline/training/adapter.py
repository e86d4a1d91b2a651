"""Worker of `adapter`: LoRA, on a 16-bit base or on its NF4 form (QLoRA), trained on the rows of `training_data`."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import set_seed

from ft_pipeline.errors import UserError
from ft_pipeline.experiments import ExperimentSettings, LoraSettings
from ft_pipeline.job import Job
from ft_pipeline.models.load import compute_dtype, keep_weights_unpacked, load_model, load_tokenizer
from ft_pipeline.training.trainer import AnswerTrainer, Evaluations, Progress, train, training_arguments
from ft_pipeline.training.training_data import read_split
from ft_pipeline.training.usage import peak_memory_gb

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_NO_DISK = ("No space left on device", "PytorchStreamWriter failed")
"""How torch and safetensors say it, in errors that carry no number."""


def run(job: Job) -> dict[str, Any]:
    """Write adapter_model.safetensors, adapter_config.json and metrics.jsonl; inputs training_data, base_model.

    Resumes from the newest valid checkpoint in `job.work`. UserError when the token audit did not pass, the loss
    stops being a number, or memory or disk run out. Summary: parameters, steps,
    best step, first and best held-out loss, tokens per second, seconds, peak memory (GB), where it resumed.
    """
    settings = ExperimentSettings.model_validate(job.config["experiment"])
    rows = {split: read_split(job.inputs["training_data"], split) for split in ("train", "validation")}
    started = time.monotonic()
    with _clear_errors(settings):
        model = new_adapter(job.inputs["base_model"], settings, job.device)
        counts = count_parameters(model)
        job.report.log(
            f"{settings.technique}: {counts['trainable_params']:,} of {counts['total_params']:,} parameters train "
            f"({counts['trainable_share']:.2%})"
        )
        trainer = _trainer(job, settings, model, rows)
        evaluations = Evaluations(settings.training.early_stopping_patience)
        trainer.add_callback(evaluations)
        trainer.add_callback(Progress(job.report, trainer.meter, job.device))
        resumed = train(trainer, evaluations)
        _save(trainer, job)
    history = trainer.state.log_history
    held_out = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return {
        **counts,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "best_eval_loss": trainer.state.best_metric,
        "first_eval_loss": held_out[0],
        "train_loss": next(entry["loss"] for entry in reversed(history) if "loss" in entry),
        "tokens_per_second": trainer.meter.tokens_per_second,
        "seconds": time.monotonic() - started,
        "peak_memory_gb": peak_memory_gb(job.device),
        "stopped_early": evaluations.exhausted(trainer.state),
        "resumed_from_step": resumed,
    }


def new_adapter(base: Path, settings: ExperimentSettings, device: str) -> Any:
    """The base model with a fresh, seeded adapter: 16 bit where bf16 is native, fp32 under fp16 (it would underflow).

    k-bit preparation is left out on purpose: it widens embeddings and head to fp32, which costs memory and most of the
    speed of a small model, and freezing is PEFT's own doing.
    """
    quantization = settings.quantization.model_dump() if settings.technique == "qlora" else None
    model = load_model(base, device, quantization=quantization)
    keep_weights_unpacked(model)
    set_seed(settings.training.seed)
    return get_peft_model(
        model, lora_config(settings.lora), autocast_adapter_dtype=compute_dtype(device) == torch.float16
    )


def lora_config(lora: LoraSettings) -> LoraConfig:
    """PEFT's configuration of our LoRA settings."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def count_parameters(model: Any) -> dict[str, Any]:
    """How many parameters train, how many there are (4-bit ones counted as what they stand for), and the share."""
    trainable, total = model.get_nb_trainable_parameters()
    return {"trainable_params": trainable, "total_params": total, "trainable_share": trainable / total}


def _trainer(job: Job, settings: ExperimentSettings, model: Any, rows: dict[str, Any]) -> AnswerTrainer:
    arguments = training_arguments(settings.training, job.work / "checkpoints", job.device, compute_dtype(job.device))
    tokenizer = load_tokenizer(job.inputs["base_model"])
    trainer = AnswerTrainer(model, tokenizer, rows["train"], rows["validation"], arguments)
    if arguments.fp16:
        for parameter in model.parameters():
            if parameter.requires_grad:  # TRL makes them bf16, which this device has not
                parameter.data = parameter.data.float()
    return trainer


def _save(trainer: AnswerTrainer, job: Job) -> None:
    """Write the best adapter, byte for byte the same for the same weights."""
    best = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.best_global_step}"
    shutil.copyfile(best / "adapter_model.safetensors", job.out / "adapter_model.safetensors")
    config = json.loads((best / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = f"base_model:{job.inputs['base_model'].name}"
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # PEFT keeps a set, whose order changes from process to process
    text = json.dumps(config, indent=2, sort_keys=True)
    (job.out / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    lines = [json.dumps(entry, sort_keys=True) for entry in trainer.state.log_history]
    (job.out / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def _clear_errors(settings: ExperimentSettings) -> Iterator[None]:
    """One clear error for what a user can mend; checkpoints stay where they are."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, SafetensorError) as error:
        text = str(error)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in _NO_MEMORY):
            raise _out_of_memory(settings) from error
        if any(sign in text for sign in _NO_DISK):
            raise UserError(
                "the disk is full; free some space and run again: training goes on from its last checkpoint"
            ) from error
        raise


def _out_of_memory(settings: ExperimentSettings) -> UserError:
    batch = settings.training.per_device_train_batch_size
    advice = []
    if batch > 1:
        advice.append(f"halve per_device_train_batch_size (now {batch}) and double gradient_accumulation_steps")
    if not settings.training.gradient_checkpointing:
        advice.append("set gradient_checkpointing: true")
    if settings.technique == "lora":
        advice.append("use technique: qlora")
    return UserError(f"memory ran out while training: {', or '.join([*advice, 'choose a smaller base_model'])}")
