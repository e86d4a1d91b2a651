"""Estimate the memory that training needs, from the model's config.json alone.

The estimate covers weights, gradients, optimizer states, activations and overhead. No weights are loaded, and torch is
not imported. 1 GB = 10⁹ bytes. A 7B model in 16 bit with AdamW needs 14 + 14 + 28 = 56 GB before the first activation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.training import ALL_LINEAR
from ft_pipeline.training.memory.layer_sizes import ModelShape, read_shape
from ft_pipeline.training.memory.rank_share import ALONE, Held, RankCount, why_not_sharded
from ft_pipeline.training.objectives.registry import OBJECTIVES

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per value."""
_STATE_BYTES = {"adamw_torch": None, "adamw_8bit": 1, "paged_adamw_8bit": 1}
"""Bytes per value of an optimizer state; None: as many as the trained value has."""
_NF4_BYTES = 0.5
"""Bytes per parameter of a 4-bit matrix."""
_SCALE_BYTES = {False: 4 / 64, True: 1 / 64 + 4 / (64 * 256)}
"""Bytes per parameter for the scales of 64-value blocks, plain and quantized again (arXiv 2305.14314, section 3)."""
_RUNTIME_BYTES = {"cuda": 0.7e9, "cpu": 0.2e9}
"""A CUDA context with its libraries, and memory that allocators cannot use; measured on CPU (benchmarks/memory.py)."""
_LOGIT_ROWS = 128
"""Rows of logits that are computed at a time (trainer/loss.py)."""
_LIGHTER_TECHNIQUES = {"full": ("lora", "qlora"), "lora": ("qlora",), "prompt_tuning": ("qlora",)}
"""The techniques that take less memory than another one."""
READ_LOGITS = 100_000_000
"""Maximum number of logits that a teacher's forward pass returns (models/decoding/target_logits.py)."""
CPU_TYPES = ("bfloat16", "float32")
"""The types that a CPU may compute in (models/compute_dtype.py)."""
SHORT_ROW_TOKENS = 512
"""Longest row (tokens) whose attention scores a CPU keeps, if rows are laid end to end (models/attention.py)."""


@dataclass(frozen=True)
class MemoryPlan:
    """The training settings that affect memory."""

    technique: str = "qlora"
    """`prompt_tuning`, `lora`, `qlora` or `full`."""
    optim: str = "paged_adamw_8bit"
    dtype: str = "bfloat16"
    """The compute type: of frozen weights and activations, and of all weights for `full` without `autocast`. Otherwise
    trained weights, their gradients and their optimizer states are 32 bit."""
    batch: int = 1
    sequences: int = 1
    """Token sequences of each row of a batch: 2 for pairs, the answers of a group for grpo."""
    length: int = 2048
    """Tokens of the longest row."""
    tokens: int | None = None
    """Tokens of a batch, if it is filled up to that instead of up to `batch` rows."""
    gradient_checkpointing: bool = False
    padding_free: bool = False
    r: int = 8
    target_modules: Sequence[str] | str = ALL_LINEAR
    double_quant: bool = True
    virtual_tokens: int = 20
    """For `prompt_tuning`: the number of tokens that precede each row. Only they are trained."""
    autocast: bool = False
    """Weights, gradients and states are 32 bit, and products use 16-bit copies. The trainer does this for `full` if the
    compute type has 16 bit, without `pure_bf16`."""
    device: str = "cuda"
    """`cpu` has no CUDA context."""
    generates: bool = False
    """Whether answers are generated between the steps, with a cache of keys and values."""
    keeps_start: bool = False
    """Whether a copy of the trained weights is kept as they were at the start."""
    logit_copies: int = 1
    """32-bit forms of a slice of logits at a time (ObjectiveSpec.logit_copies)."""
    ranks: RankCount = ALONE
    """The processes that train together. The estimate is for one of them."""
    teacher: ModelShape | None = None
    """The model that reads the answers, if it is in memory beside the trained one."""
    read_logits: int = 0
    """Positions of an answer at which a teacher's logits are read."""


def estimate_memory(
    shape: ModelShape, plan: MemoryPlan, *, params: float | None = None, gpu_memory_gb: float | None = None
) -> dict[str, Any]:
    """Return bytes by part, `total_gb`, `fits` (None without a GPU size), `lower_bound_gb` and `advice`.

    `params` overrides the count of `shape`. `possible` is False if not even the lower bound fits (one row at a time,
    with gradient checkpointing).
    """
    parts = _bytes_by_part(shape, plan, params)
    total_gb = sum(parts.values()) / 1e9
    # Checkpointing takes more memory if a model has a single layer.
    lower_bound_gb = min(total_gb, sum(_bytes_by_part(shape, _smallest(plan), params).values()) / 1e9)
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
    training, grpo = settings.training, settings.grpo
    objective, in_groups = OBJECTIVES[settings.objective], settings.objective == "grpo"
    own_tokens = settings.distill.max_new_tokens if settings.distill and settings.is_on_policy else 0
    longest = (longest_row or training.max_length) + (grpo.max_new_tokens if in_groups else own_tokens)
    return MemoryPlan(
        technique=settings.technique,
        optim=training.optim,
        batch=training.per_device_train_batch_size,
        sequences=grpo.num_generations if in_groups else objective.sequences_per_row,
        length=min(longest, training.max_length),
        tokens=training.tokens_per_batch,
        generates=in_groups or settings.is_on_policy,
        keeps_start=in_groups and grpo.beta > 0,
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


def _bytes_by_part(shape: ModelShape, plan: MemoryPlan, params: float | None) -> dict[str, float]:
    """Return the bytes of each part of the estimate. UserError if the plan is not supported."""
    _require_supported(plan)
    param_count, value_bytes = params or shape.params, BYTES[plan.dtype]
    trained = _trained_params(shape, plan, param_count)
    trained_bytes = value_bytes if plan.technique == "full" and not plan.autocast else BYTES["float32"]
    # A product rounds the matrices of LoRA to the compute type (models/adapter_precision.py).
    rounded_bytes = value_bytes if plan.technique in ("lora", "qlora") and value_bytes < trained_bytes else 0
    adapter_weights = 0 if plan.technique == "full" else trained * (trained_bytes + rounded_bytes)
    start = trained * trained_bytes if plan.keeps_start else 0
    packed = _packed_bytes(shape, plan, value_bytes)
    weights = _base_bytes(shape, plan, param_count, value_bytes) + adapter_weights + start
    states = _state_bytes(shape, plan, trained, trained_bytes)
    outside = shape.outside_params / shape.params
    trained_outside = outside if plan.technique == "full" else 0
    copies = _copy_bytes(shape, plan, param_count, value_bytes)
    return {
        "weights": _share(weights, outside, shape, plan) + copies,
        "gradients": _share(trained * trained_bytes, trained_outside, shape, plan),
        "optimizer": states / plan.ranks.count if plan.ranks.sharded else states,
        **({"packed": packed} if packed else {}),
        **({"teacher": _teacher_bytes(plan.teacher, plan, value_bytes)} if plan.teacher else {}),
        "activations": max(
            _activation_bytes(shape, plan, value_bytes),
            _cache_bytes(shape, plan, value_bytes),
            _reading_bytes(plan.teacher or shape, plan, value_bytes),
        ),
        "overhead": _RUNTIME_BYTES[plan.device] + _workspace_bytes(shape, plan, value_bytes),
    }


def _share(whole: float, outside: float, shape: ModelShape, plan: MemoryPlan) -> float:
    """Return the bytes that one rank holds. outside: the share that is outside the layers."""
    return Held(whole, whole * (1 - outside) / shape.layers, whole * outside).of_one(plan.ranks)


def _state_bytes(shape: ModelShape, plan: MemoryPlan, trained: float, trained_bytes: int) -> float:
    """Return the bytes of two states per trained value. An 8-bit optimizer keeps those of embeddings in 32 bit."""
    state_bytes = _STATE_BYTES[plan.optim]
    embeddings = shape.vocabulary * shape.hidden if state_bytes and plan.technique == "full" else 0
    return 2 * (trained * (state_bytes or trained_bytes) + embeddings * (BYTES["float32"] - (state_bytes or 0)))


def _trained_params(shape: ModelShape, plan: MemoryPlan, param_count: float) -> float:
    if plan.technique == "full":
        return param_count
    if plan.technique == "prompt_tuning":
        return plan.virtual_tokens * shape.hidden
    return shape.adapter_params(plan.r, plan.target_modules)


def _require_supported(plan: MemoryPlan) -> None:
    """Raise UserError if the technique, optimizer or dtype is unknown."""
    for name, value, supported in (
        ("technique", plan.technique, ("prompt_tuning", "lora", "qlora", "full")),
        ("optimizer", plan.optim, tuple(_STATE_BYTES)),
        ("dtype", plan.dtype, tuple(BYTES)),
    ):
        if value not in supported:
            raise UserError(f"{name} {value!r} is not supported. Choose one of {', '.join(supported)}.")


def _base_bytes(shape: ModelShape, plan: MemoryPlan, param_count: float, value_bytes: int) -> float:
    """Return the bytes of the weights of the base model."""
    if plan.autocast:
        return param_count * BYTES["float32"]
    if plan.technique != "qlora":
        return param_count * value_bytes
    packed_params = param_count * shape.matrix_params / shape.params
    return packed_params * (_NF4_BYTES + _SCALE_BYTES[plan.double_quant]) + (param_count - packed_params) * value_bytes


def _copy_bytes(shape: ModelShape, plan: MemoryPlan, param_count: float, value_bytes: int) -> float:
    """Return the bytes of the 16-bit copies of autocast. They live until the backward pass has used them, also where
    the weights themselves are sharded. With checkpointing, those of one sharded layer at a time do."""
    if not plan.autocast:
        return 0
    copies = param_count * value_bytes
    if not (plan.ranks.sharded and plan.gradient_checkpointing):
        return copies
    outside = copies * shape.outside_params / shape.params
    return outside + (copies - outside) / shape.layers


def _packed_bytes(shape: ModelShape, plan: MemoryPlan, value_bytes: int) -> float:
    """Return the bytes of packed matrices. On a CPU with enough memory, the frozen matrices and the head are packed for
    the products of both passes. Those of qlora are dequantized first (models/cpu/fast_linear.py)."""
    if plan.device != "cpu" or plan.technique == "full" or plan.ranks.sharded:
        return 0
    dequantized = shape.matrix_params * value_bytes if plan.technique == "qlora" else 0
    return dequantized + 2 * (shape.matrix_params + shape.vocabulary * shape.hidden) * value_bytes


def _activation_bytes(shape: ModelShape, plan: MemoryPlan, value_bytes: int) -> float:
    """Return the bytes kept for the backward pass of batch × length tokens, and the gradients of the current layer (one
    layer more).

    Checkpointing keeps the input of each layer, and one recomputed layer with its gradients.
    """
    length = plan.length + (plan.virtual_tokens if plan.technique == "prompt_tuning" else 0)
    layer_values = _kept_values(shape, plan)
    input_values = shape.hidden * (2 if plan.autocast else 1)  # the residual stream is 32 bit under autocast
    if plan.gradient_checkpointing:
        values = shape.layers * input_values + 2 * layer_values
    else:
        values = layer_values * (shape.layers + 1)
    if plan.tokens is None:
        tokens = plan.ranks.rows(plan.batch) * plan.sequences * length
    else:  # short rows fill a batch, and of a few long rows a rank may have more than its share
        long_rows = plan.ranks.rows(max(1, plan.tokens // (plan.sequences * length)))
        tokens = max(plan.ranks.rows(plan.tokens), long_rows * plan.sequences * length)
    return tokens * values * value_bytes


def _cache_bytes(shape: ModelShape, plan: MemoryPlan, value_bytes: int) -> float:
    """Return the bytes of the keys and values of a batch of answers, while there are no activations."""
    values = shape.layers * 2 * shape.kv_heads * shape.head_dim
    rows = plan.ranks.rows(plan.batch) * plan.sequences
    return rows * plan.length * values * value_bytes if plan.generates else 0


def _teacher_bytes(teacher: ModelShape, plan: MemoryPlan, value_bytes: int) -> float:
    """Return the bytes of the weights of a teacher. A CPU packs its matrices for the forward pass."""
    packed = teacher.matrix_params + teacher.vocabulary * teacher.hidden if plan.device == "cpu" else 0
    return (teacher.params + packed) * value_bytes


def _reading_bytes(teacher: ModelShape, plan: MemoryPlan, value_bytes: int) -> float:
    """Return the bytes that a teacher needs to read a batch of answers, while there are no activations: keys, values
    and logits. Its prompt is taken to be as long as a row."""
    cache = teacher.layers * 2 * teacher.kv_heads * teacher.head_dim * plan.length
    logits = min(plan.batch * plan.read_logits * teacher.vocabulary, READ_LOGITS)
    return (plan.batch * cache + logits) * value_bytes if plan.read_logits else 0


def _kept_values(shape: ModelShape, plan: MemoryPlan) -> float:
    """Return how many values of the compute type one layer keeps per token. h is the hidden size, q the width of all
    heads, i the width of the MLP.

    Always: the 32-bit inputs of two norms (2 h of 32 bit); queries, keys and values, repeated for each head, and the
    output of attention (4 q); gate, its activation, and up (3 i). Trained matrices keep their inputs: the output of
    a norm if they read it (h), and the input of down_proj (i); that of o_proj is kept already. LoRA's matrices are 32
    bit and read inputs in the compute type (models/adapter_precision.py). If all weights are trained, the norms also
    keep the values that they scale (2 h of 32 bit). Under autocast, each of five matrices keeps a 16-bit copy of its
    input (5 h). Short rows that are laid end to end on a CPU keep a score for each head and previous token.
    """
    mlp_width = shape.intermediate + shape.active_experts * shape.expert_width
    norms = 2 * shape.hidden * BYTES["float32"] / BYTES[plan.dtype]
    values = norms + 4 * shape.heads * shape.head_dim + (3 if shape.gated else 2) * mlp_width
    if plan.padding_free and plan.device == "cpu" and plan.length <= SHORT_ROW_TOKENS:
        values += shape.heads * plan.length
    if plan.technique == "full":
        return values + norms + (5 if plan.autocast else 2) * shape.hidden + mlp_width
    if plan.technique == "prompt_tuning":
        return values
    targets = shape.target_names(plan.target_modules)
    for readers in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        values += shape.hidden if any(name in targets for name in readers) else 0
    return values + (mlp_width if "down_proj" in targets else 0)


def _workspace_bytes(shape: ModelShape, plan: MemoryPlan, value_bytes: int) -> float:
    """Return the bytes of temporary values: slices of logits with their 32-bit form; for QLoRA, the largest matrix,
    dequantized; for bf16 weights with an 8-bit optimizer, the embeddings and their gradient in 32 bit (weights are
    updated one matrix at a time).

    On a CPU the allocator also keeps the memory of the file's 16-bit matrices after they are packed.
    """
    logits = _LOGIT_ROWS * shape.vocabulary * (value_bytes + 4 * plan.logit_copies)
    if plan.technique == "full" and value_bytes < BYTES["float32"] and not plan.autocast and _STATE_BYTES[plan.optim]:
        return logits + 2 * BYTES["float32"] * shape.vocabulary * shape.hidden
    if plan.technique != "qlora":
        return logits
    if plan.device == "cpu":
        return logits + shape.matrix_params * BYTES["bfloat16"]
    return logits + max(inputs * outputs for inputs, outputs in shape.matrices.values()) * value_bytes


def _advice(shape: ModelShape, plan: MemoryPlan, params: float | None, gpu_memory_gb: float) -> list[str]:
    """Return the changes that would make the training fit, the smallest first."""
    limit = gpu_memory_gb * 1e9
    fitting = [
        text for text, changed in _changes(plan) if sum(_bytes_by_part(shape, changed, params).values()) <= limit
    ]
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
