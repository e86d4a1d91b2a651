"""The trainings that training.py compares: ours and TRL's, on the same rows, all in the machine's compute type.

Each returns tokens_per_second, seconds, tokens, peak_memory_gb (GB of 10⁹ bytes), and two losses in nats per answer
token: `first_loss`, of the first batch, before any update, and `mean_loss`, over all batches of the epoch.
"""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import ceiling
from embedded import LENGTH, Conversations, encode_rows
from own_trainer import new_trainer

BATCH = 8
RATE = 1e-3
SEED = 42
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
Result = dict[str, float]


def ours(technique: str, base: Path, rows: Conversations, around: Any = None, **keys: bool) -> Result:
    """Our trainer, as `adapter` runs it; `keys` of `training` in addition to the defaults.

    `around` is a context for the training; the model is loaded outside of it. With torch_compile the timed epoch
    follows an epoch that compiles, whose extra seconds are `compile_seconds`.
    """
    from ft_pipeline.settings.experiment import ExperimentSettings

    settings = ExperimentSettings.model_validate(
        {
            "technique": technique,
            "lora": {"target_modules": TARGETS},
            "training": {
                "learning_rate": RATE,
                "num_train_epochs": 1,
                "per_device_train_batch_size": BATCH,
                "seed": SEED,
                **keys,
            },
        }
    )
    encoded = encode_rows(base, rows)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = new_trainer(base, settings, encoded, Path(scratch))
        with around or contextlib.nullcontext():
            first = _timed(trainer, encoded)
        if not settings.training.torch_compile:
            return first
        second = _timed(trainer, encoded)
        losses = {name: first[name] for name in ("first_loss", "mean_loss")}  # the second epoch begins trained
        return {**second, **losses, "compile_seconds": first["seconds"] - second["seconds"]}


def trl_defaults(base: Path, rows: Conversations) -> Result:
    """TRL as its documentation shows it: conversations in, defaults throughout (gradient checkpointing among them),
    QLoRA by peft_config. Only the type is set: TRL would compute in bf16 on any CPU."""
    from datasets import Dataset

    conversations = Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows])
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trl_trainer(base, conversations, {"output_dir": scratch, "max_length": LENGTH})
        return _timed(trainer, encode_rows(base, rows))


def trl_like_for_like(base: Path, rows: Conversations) -> Result:
    """TRL with what ours has: the same tokens in the same batches (padded), no gradient checkpointing, the same
    schedule, and an adapter that computes in the compute type.

    The two losses must then equal ours but for rounding.
    """
    import torch
    from datasets import Dataset

    from ft_pipeline.models.compute_dtype import compute_dtype
    from ft_pipeline.training.trainer.batches import LengthGroupedSampler

    encoded = encode_rows(base, rows)
    order = LengthGroupedSampler([len(row["input_ids"]) for row in encoded], BATCH, SEED)
    tokens = Dataset.from_list([encoded[index] for index in order])
    with tempfile.TemporaryDirectory() as scratch:
        arguments = {
            "output_dir": scratch,
            "max_length": None,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "train_sampling_strategy": "sequential",
            "gradient_checkpointing": False,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.05,
        }
        trainer = trl_trainer(base, tokens, arguments)
        if compute_dtype("cpu") == torch.float32:
            # TRL rounds the adapter of a quantized model to bf16, which such a CPU multiplies slowly.
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        return _timed(trainer, encoded)


def ceiling_of_machine(base: Path, rows: Conversations) -> Result:
    """The machine's products and dequantization alone (ceiling.py); it has no losses."""
    return ceiling.measure(base, [len(row["input_ids"]) for row in encode_rows(base, rows)], BATCH)


def trl_trainer(
    base: Path,
    dataset: Any,
    arguments: dict[str, Any],
    *,
    technique: str = "qlora",
    device: str = "cpu",
    targets: list[str] | str = TARGETS,
    kind: str = "SFT",
    **more: Any,
) -> Any:
    """A trainer of TRL (`kind`: SFT, DPO or GRPO), with LoRA of r = 8 unless the technique is `full`.

    arguments: of its config, in addition to those that all contenders share. more: of the trainer.
    """
    import torch
    import trl
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed

    from ft_pipeline.models.compute_dtype import compute_dtype

    dtype = compute_dtype(device)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        quantization_config=quantization if technique == "qlora" else None,
        dtype=torch.float32 if technique == "full" else dtype,  # full: 32-bit weights under autocast, as ours
        device_map={"": device},
    )
    set_seed(SEED)
    shared = {
        "use_cpu": device == "cpu",
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "optim": "paged_adamw_8bit",
        "seed": SEED,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    lora = LoraConfig(r=8, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    return getattr(trl, f"{kind}Trainer")(
        model=model,
        args=getattr(trl, f"{kind}Config")(**{**shared, **arguments}),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=None if technique == "full" else lora,
        **more,
    )


def _timed(trainer: Any, encoded: list[dict[str, Any]]) -> Result:
    from ft_pipeline.training.trainer.memory_usage import peak_memory_gb

    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    tokens = sum(len(row["input_ids"]) for row in encoded)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "peak_memory_gb": peak_memory_gb("cpu"),
        "tokens": tokens,
        "first_loss": losses[0],
        "mean_loss": sum(losses) / len(losses),
    }


CONTENDERS = {
    "ceiling": ceiling_of_machine,
    "trl": trl_defaults,
    "trl like for like": trl_like_for_like,
    "ours qlora padded": lambda base, rows: ours("qlora", base, rows, padding_free=False),
    "ours qlora": lambda base, rows: ours("qlora", base, rows, padding_free=True),
    "ours lora": lambda base, rows: ours("lora", base, rows, padding_free=True),
    "ours qlora torch_compile": lambda base, rows: ours("qlora", base, rows, padding_free=True, torch_compile=True),
}
