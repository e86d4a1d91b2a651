"""The bytes of each part of a training: weights, gradients, optimizer states, activations and overhead.

No weights are loaded, and torch is not imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ft_pipeline.errors import UserError
from ft_pipeline.settings.training import ALL_LINEAR
from ft_pipeline.training.memory.layer_sizes import ModelShape
from ft_pipeline.training.memory.rank_share import ALONE, Held, RankCount

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
READ_LOGITS = 100_000_000
"""Maximum number of logits that a teacher's forward pass returns (models/decoding/target_logits.py)."""
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


def bytes_by_part(shape: ModelShape, plan: MemoryPlan, params: float | None) -> dict[str, float]:
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
