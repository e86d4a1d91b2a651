"""Estimate the memory that training needs, from the model's config.json alone.

The estimate covers weights, gradients, optimizer states, activations and overhead (`parts.py`). No weights are loaded,
and torch is not imported. 1 GB = 10⁹ bytes. A 7B model in 16 bit with AdamW needs 14 + 14 + 28 = 56 GB before the first
activation.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.memory.layer_sizes import ModelShape, read_shape
from ft_pipeline.training.memory.parts import MemoryPlan, bytes_by_part
from ft_pipeline.training.memory.rank_share import ALONE, RankCount, why_not_sharded
from ft_pipeline.training.objectives.registry import OBJECTIVES

_LIGHTER_TECHNIQUES = {"full": ("lora", "qlora"), "lora": ("qlora",), "prompt_tuning": ("qlora",)}
"""The techniques that take less memory than another one."""
CPU_TYPES = ("bfloat16", "float32")
"""The types that a CPU may compute in (models/compute_dtype.py)."""


def estimate_memory(
    shape: ModelShape, plan: MemoryPlan, *, params: float | None = None, gpu_memory_gb: float | None = None
) -> dict[str, Any]:
    """Return bytes by part, `total_gb`, `fits` (None without a GPU size), `lower_bound_gb` and `advice`.

    `params` overrides the count of `shape`. `possible` is False if not even the lower bound fits (one row at a time,
    with gradient checkpointing).
    """
    parts = bytes_by_part(shape, plan, params)
    total_gb = sum(parts.values()) / 1e9
    # Checkpointing takes more memory if a model has a single layer.
    lower_bound_gb = min(total_gb, sum(bytes_by_part(shape, _smallest(plan), params).values()) / 1e9)
    too_large = gpu_memory_gb is not None and total_gb > gpu_memory_gb
    return {
        "params": int(params or shape.params),
        "technique": plan.technique,
        "bytes": {name: int(value) for name, value in parts.items()},
        "total_gb": total_gb,
        "lower_bound_gb": lower_bound_gb,
        "gpu_memory_gb": gpu_memory_gb,
        "fits": None if gpu_memory_gb is None else total_gb <= gpu_memory_gb,
        "possible": None if gpu_memory_gb is None else lower_bound_gb <= gpu_memory_gb,
        "advice": _advice(shape, plan, params, gpu_memory_gb) if gpu_memory_gb is not None and too_large else [],
    }


def estimate_experiment(
    settings: ExperimentSettings,
    config: dict[str, Any],
    longest_row: int | None,
    gpu_memory_gb: float | None,
    device: str = "cuda",
    params: int | None = None,
    dtype: str = "bfloat16",
    ranks: RankCount | None = None,
    teacher: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the estimate of one experiment. `longest_row` is in tokens, from the token audit (None: `max_length`).

    `device` "cpu" omits the CUDA context. `params`: the count from the headers of the weight files, if known.
    `dtype`: the compute type. `cpu_gb` is the need of one process on a CPU, by compute type: the same on every machine.
    `teacher`: the config of a teacher that reads the student's answers (on-policy), if it is another model.
    `ranks`: the processes that train together; None: one for each GPU of the experiment. If these are several, the
    estimate is for each of them with DDP, or with FSDP2 if DDP does not fit, and `ranks` has both.
    """
    shape, plan = read_shape(config), _memory_plan(settings, longest_row)
    if settings.is_on_policy and (teacher is not None or settings.technique != "lora"):
        plan = replace(plan, teacher=read_shape(teacher or config))

    def estimate_on(device: str, dtype: str, ranks: RankCount, limit: float | None = None) -> dict[str, Any]:
        dtype = "bfloat16" if settings.training.pure_bf16 else dtype
        autocast = settings.technique == "full" and dtype != "float32" and not settings.training.pure_bf16
        end_to_end = _is_padding_free(settings, device)
        device_plan = replace(plan, device=device, dtype=dtype, autocast=autocast, padding_free=end_to_end, ranks=ranks)
        return estimate_memory(shape, device_plan, params=params, gpu_memory_gb=limit)

    cpu_gb = {name: estimate_on("cpu", name, ALONE)["total_gb"] for name in CPU_TYPES}
    if ranks is not None or settings.gpu.count == 1:
        return estimate_on(device, dtype, ranks or ALONE, gpu_memory_gb) | {"cpu_gb": cpu_gb}
    count = settings.gpu.count
    ddp = estimate_on(device, dtype, RankCount(count), gpu_memory_gb)
    sharded = None
    if why_not_sharded(settings) is None:
        sharded = estimate_on(device, dtype, RankCount(count, sharded=True), gpu_memory_gb)
    needs = {"ddp_gb": ddp["total_gb"], "fsdp2_gb": sharded and sharded["total_gb"]}
    shown = sharded if sharded and ddp["possible"] is False else ddp
    return shown | {"cpu_gb": cpu_gb, "ranks": {"count": count, **needs}}


def describe_cpu_memory(cpu_gb: Mapping[str, float]) -> str:
    """Return, for example, `1.2 GB in bfloat16, 2.1 GB in float32`."""
    return ", ".join(f"{size:.1f} GB in {dtype}" for dtype, size in cpu_gb.items())


def _memory_plan(settings: ExperimentSettings, longest_row: int | None) -> MemoryPlan:
    """Return the plan of an experiment, without the parts that depend on the device."""
    training, objective = settings.training, OBJECTIVES[settings.objective]
    groups = objective.groups(settings)
    own_tokens = settings.distill.max_new_tokens if settings.distill and settings.is_on_policy else 0
    longest = (longest_row or training.max_length) + (groups.max_new_tokens if groups else own_tokens)
    return MemoryPlan(
        technique=settings.technique,
        optim=training.optim,
        batch=training.per_device_train_batch_size,
        sequences=groups.copies if groups else objective.sequences_per_row,
        length=min(longest, training.max_length),
        tokens=training.tokens_per_batch,
        generates=groups is not None or settings.is_on_policy,
        keeps_start=groups is not None and groups.keeps_start,
        read_logits=own_tokens,
        gradient_checkpointing=training.gradient_checkpointing,
        r=settings.lora.r,
        target_modules=settings.lora.target_modules,
        double_quant=settings.quantization.bnb_4bit_use_double_quant,
        virtual_tokens=settings.prompt_tuning.num_virtual_tokens,
        logit_copies=objective.logit_copies,
    )


def _is_padding_free(settings: ExperimentSettings, device: str) -> bool:
    """Whether batches have no padding, according to the settings (acceleration.speed_up decides for the model)."""
    if settings.training.padding_free is not None:
        return settings.training.padding_free
    return device == "cpu" and settings.technique != "prompt_tuning" and settings.training.allows_rows_end_to_end


def _smallest(plan: MemoryPlan) -> MemoryPlan:
    """Return the plan that takes the least memory with the same technique and optimizer."""
    return replace(plan, batch=1, tokens=plan.tokens and plan.length * plan.sequences, gradient_checkpointing=True)


def _advice(shape: ModelShape, plan: MemoryPlan, params: float | None, gpu_memory_gb: float) -> list[str]:
    """Return the changes that would make the training fit, the smallest first."""
    limit = gpu_memory_gb * 1e9
    fitting = [text for text, changed in _changes(plan) if sum(bytes_by_part(shape, changed, params).values()) <= limit]
    return fitting or [f"choose a smaller base_model or a larger GPU: no setting here fits {gpu_memory_gb:g} GB"]


def _changes(plan: MemoryPlan) -> list[tuple[str, MemoryPlan]]:
    """Return changes that save memory, the smallest first: (advice, changed plan)."""
    changes: list[tuple[str, MemoryPlan]] = []
    if plan.tokens is not None and plan.tokens >= 2 * plan.length:
        fewer = replace(plan, tokens=plan.tokens // 2)
        changes.append((f"set tokens_per_batch: {fewer.tokens} and double gradient_accumulation_steps", fewer))
    elif plan.tokens is None and plan.batch > 1:
        half = replace(plan, batch=max(1, plan.batch // 2))
        changes += [
            (f"set per_device_train_batch_size: {half.batch} and double gradient_accumulation_steps", half),
            ("set per_device_train_batch_size: 1 and raise gradient_accumulation_steps", replace(plan, batch=1)),
        ]
    if not plan.gradient_checkpointing:
        changes.append(("set gradient_checkpointing: true", replace(plan, gradient_checkpointing=True)))
    smallest = _smallest(plan)
    one_row = "per_device_train_batch_size: 1" if plan.tokens is None else f"tokens_per_batch: {smallest.tokens}"
    settings = f"{one_row} and gradient_checkpointing: true"
    changes.append((f"set {settings}", smallest))
    if plan.optim == "adamw_torch":
        changes.append((f"set optim: paged_adamw_8bit, {settings}", replace(smallest, optim="paged_adamw_8bit")))
    if plan.technique == "full" and plan.autocast:
        pure_bf16 = replace(smallest, optim="paged_adamw_8bit", autocast=False)
        changes.append((f"set pure_bf16: true, optim: paged_adamw_8bit, {settings}", pure_bf16))
    changes += [
        (f"set technique: {name}", replace(smallest, technique=name, optim="paged_adamw_8bit", autocast=False))
        for name in _LIGHTER_TECHNIQUES.get(plan.technique, ())
    ]
    return changes
