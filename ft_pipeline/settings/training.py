"""The sections of an experiment that define what is trained and how: PEFT, quantization and training arguments."""

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ft_pipeline.settings.yaml_file import Section, later, rule_error

ALL_LINEAR = "all-linear"
"""PEFT's name for every matrix except the head."""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Llama's names for the attention matrices."""


def _check_expression(expression: str, key: str) -> str:
    """Return a regular expression; ValueError if it is not valid."""
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(
            f"`{key}` contains {expression!r}, which is not a valid regular expression ({error}). Correct it."
        ) from None
    return expression


class PromptTuningSettings(Section):
    """PEFT's PromptTuningConfig, same names: a learned prompt for a frozen model (arXiv 2104.08691)."""

    num_virtual_tokens: int = Field(20, ge=1, le=1024)
    prompt_tuning_init: Literal["SAMPLE_VOCAB", "TEXT", "RANDOM"] = "SAMPLE_VOCAB"
    """How the virtual tokens are initialized: with random words of the vocabulary, with a text, or with noise."""
    prompt_tuning_init_text: str | None = None

    @model_validator(mode="after")
    def _check_init_text(self) -> "PromptTuningSettings":
        if (self.prompt_tuning_init == "TEXT") != bool(self.prompt_tuning_init_text):
            raise rule_error(
                "prompt_tuning_init_text" if self.prompt_tuning_init_text else "prompt_tuning_init",
                "`prompt_tuning_init: TEXT` and `prompt_tuning_init_text` need each other. Set both or neither.",
            )
        return self


class LoraSettings(Section):
    """PEFT's LoraConfig, same names: W' = W + (lora_alpha / r) · B · A (Hu et al. 2021, arXiv 2106.09685)."""

    r: int = Field(8, ge=1, le=1024)
    lora_alpha: int | None = Field(None, ge=1, le=65_536)
    """Null: equal to r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] | str = Field(ALL_LINEAR, min_length=1)
    """`all-linear` (every matrix of the layers, arXiv 2305.14314), names of matrices, or one regular expression that
    matches whole module names (`.*layers.0.*_proj`). `[q_proj, k_proj, v_proj, o_proj]` means the attention matrices,
    also if a model names or fuses them differently (`c_attn`, `qkv_proj`)."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) (arXiv 2312.03732). Worth trying for r ≥ 32."""
    use_dora: bool = False
    """Learn the magnitude of each row of W separately from its direction (arXiv 2402.09353). Slower."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=dict)
    """A different r for modules whose names end with a key: `{q_proj: 16}`."""
    alpha_pattern: dict[str, Annotated[int, Field(ge=1, le=65_536)]] = Field(default_factory=dict)
    """A different lora_alpha for modules whose names end with a key."""

    @field_validator("target_modules")
    @classmethod
    def _check_target_modules(cls, modules: list[str] | str) -> list[str] | str:
        if isinstance(modules, list) or modules == ALL_LINEAR:
            return modules
        if modules.lower().replace("_", "-") == ALL_LINEAR:
            raise ValueError(f"`lora.target_modules` is {modules!r}. Did you mean `{ALL_LINEAR}`?")
        if re.fullmatch(r"\w+(\s*,\s*\w+)*", modules):
            raise ValueError(f"`lora.target_modules` is {modules!r}. Write names as a list: [{modules}].")
        return _check_expression(modules, "lora.target_modules")

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _check_patterns(cls, patterns: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        for expression in patterns:
            _check_expression(expression, f"lora.{info.field_name}")
        return patterns

    @property
    def alpha(self) -> int:
        """`lora_alpha`, or its default."""
        return self.lora_alpha if self.lora_alpha is not None else self.r


class QuantizationSettings(Section):
    """transformers' BitsAndBytesConfig, same names (Dettmers et al. 2023, arXiv 2305.14314)."""

    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True


class TrainingSettings(Section):
    """transformers' and TRL's training arguments, same names."""

    learning_rate: float | None = Field(None, gt=0, le=1)
    """Null: 1e-3 for lora and qlora, 1e-2 for prompt_tuning, 5e-5 for full. For dpo, kto and grpo a tenth of that. For
    a base model with 1B parameters or more a fifth of that."""
    num_train_epochs: int = Field(3, ge=1, le=1000)
    max_steps: Literal[-1] | Annotated[int, Field(ge=1)] = -1
    """Above zero: stop after this many optimizer steps, regardless of num_train_epochs."""
    per_device_train_batch_size: int = Field(8, ge=1)
    tokens_per_batch: int | None = later(None, ge=8)
    """Fill each batch with rows up to this many tokens, padding counted, in place of `per_device_train_batch_size`
    rows: many short rows or few long ones. At least `max_length`. With `padding_free` the rows of a batch are one
    packed sequence. Not for prompt_tuning and grpo."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    max_length: int = Field(1024, ge=8)
    """Tokens. `long_rows` decides about longer rows. cpt: the length of a block."""
    long_rows: Literal["fail", "skip", "truncate"] = later("fail")
    """What to do with rows longer than `max_length` (docs/training-rows.md). `fail`: the token audit refuses them.
    `skip`: leave them out. `truncate`: cut off their end, and leave out those of which no answer remains. The audit
    counts and lists the rows."""
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "paged_adamw_8bit"
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    eval_steps: int | None = Field(None, ge=1)
    """Optimizer steps between two evaluations of the held-out loss. Null: `evals_per_epoch` decides. The last step is
    always evaluated."""
    evals_per_epoch: int = later(4, ge=1)
    """Evaluations of the held-out loss per epoch, evenly spaced. A run that `max_steps` ends within its first epoch
    counts as one epoch. An epoch with fewer steps is evaluated after each step."""
    eval_rows: int = later(512, ge=1)
    """Number of validation rows for the held-out loss: the same rows every time, chosen by the hash of their ids. All
    rows if the split has no more."""
    save_steps: int | None = later(None, ge=1)
    """Optimizer steps between two checkpoints. Null: one after each evaluation. The best and the last step are always
    saved. Two checkpoints are kept: the newest and the best."""
    early_stopping_patience: int | None = Field(3, ge=0)
    """Stop when the best held-out loss is this many evaluations old. Null or 0: never. A run does not stop before its
    schedule has decayed: `linear` and `cosine` to a tenth of the learning rate, constant schedules after warmup."""
    gradient_checkpointing: bool = False
    padding_free: bool | None = later(None)
    """Put the rows of a batch end to end, without padding. Each row attends only to itself (variable-length attention).
    Null: only on a CPU, if the model supports it (Llama-like models); there it is up to a third faster. On a GPU
    (Ampere or newer) `true` uses torch's variable-length kernel, which has not been run on a GPU yet."""
    torch_compile: bool = later(False)
    """Compile the layers. This takes about half a minute at the first step; then training is a fifth faster on a CPU.
    A CPU needs g++, and bfloat16 as its compute type (`ft doctor` shows it): compiled layers give wrong results in
    float32."""
    use_liger_kernel: bool = later(False)
    """Use Liger's Triton kernels for norms, rotary embedding and MLP. Needs a GPU (not run on one yet) and
    `pip install 'ft-pipeline[liger]'`."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        later(None)
    )
    """Attention during training, by transformers' name. Null: the model's default. All but `eager` and `sdpa` need a
    GPU, and the flash kernels need their package. `padding_free` has its own attention."""
    pure_bf16: bool = later(False)
    """full: use bf16 weights and gradients, and round the updates stochastically. This takes half the memory: 6 bytes
    per parameter, so that 8B parameters fit one 80 GB GPU. Needs an 8-bit `optim`. For GPUs with native bf16."""
    neftune_noise_alpha: float | None = Field(None, gt=0)
    """Noise on the embeddings during training (arXiv 2310.05914), usually 5 to 15. Null: none."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default_factory=list)
    """Trackers that log each step, in addition to the UI. Each must be installed. They are not part of an adapter's
    spec: adding a tracker retrains nothing."""
    seed: int = Field(42, ge=0, le=4_294_967_000)

    @field_validator("early_stopping_patience")
    @classmethod
    def _zero_as_null(cls, patience: int | None) -> int | None:
        """Return None for 0: both mean "never", and the two must give the same spec."""
        return patience or None

    @property
    def allows_rows_end_to_end(self) -> bool:
        """Whether `padding_free` can be used: NEFTune's noise depends on the length of a row, and a named attention
        does not keep rows apart that are end to end."""
        return self.neftune_noise_alpha is None and self.attn_implementation is None
