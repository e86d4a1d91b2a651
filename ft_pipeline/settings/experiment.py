"""experiments/*.yaml as typed models: how a model is trained, and what it is served with (docs/settings.md)."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ft_pipeline.settings.project import NAME_PATTERN
from ft_pipeline.settings.yaml_file import Section

Technique = Literal["prompt_tuning", "lora", "qlora", "full"]
Objective = Literal["sft", "dpo", "cpt"]
ALL_LINEAR = "all-linear"
"""PEFT's name for every matrix except the head."""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Llama's names for the attention matrices."""


def _expression(given: str, key: str) -> str:
    try:
        re.compile(given)
    except re.error as error:
        raise ValueError(f"`{key}` holds {given!r}, no regular expression: {error}") from None
    return given


class PromptTuningSettings(Section):
    """PEFT's PromptTuningConfig, same names: a learned prompt for a frozen model (arXiv 2104.08691)."""

    num_virtual_tokens: int = Field(20, ge=1, le=1024)
    prompt_tuning_init: Literal["SAMPLE_VOCAB", "TEXT", "RANDOM"] = "SAMPLE_VOCAB"
    """How the virtual tokens are initialized: with random words of the vocabulary, with a text, or with noise."""
    prompt_tuning_init_text: str | None = None

    @model_validator(mode="after")
    def _text_where_it_is_read(self) -> "PromptTuningSettings":
        if (self.prompt_tuning_init == "TEXT") != bool(self.prompt_tuning_init_text):
            raise ValueError("`prompt_tuning_init: TEXT` and `prompt_tuning_init_text` go together: set both or none")
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
    """Learn the length of each row of W separately from its direction (arXiv 2402.09353). Slower."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=dict)
    """A different r for modules whose names end with a key: `{q_proj: 16}`."""
    alpha_pattern: dict[str, Annotated[int, Field(ge=1, le=65_536)]] = Field(default_factory=dict)
    """A different lora_alpha for modules whose names end with a key."""

    @field_validator("target_modules")
    @classmethod
    def _names_or_an_expression(cls, given: list[str] | str) -> list[str] | str:
        if isinstance(given, list) or given == ALL_LINEAR:
            return given
        if given.lower().replace("_", "-") == ALL_LINEAR:
            raise ValueError(f"`lora.target_modules` is {given!r}; did you mean `{ALL_LINEAR}`?")
        if re.fullmatch(r"\w+(\s*,\s*\w+)*", given):
            raise ValueError(f"`lora.target_modules` is {given!r}; write names as a list: [{given}]")
        return _expression(given, "lora.target_modules")

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _expressions(cls, given: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        for name in given:
            _expression(name, f"lora.{info.field_name}")
        return given

    @property
    def alpha(self) -> int:
        return self.lora_alpha if self.lora_alpha is not None else self.r


class QuantizationSettings(Section):
    """transformers' BitsAndBytesConfig, same names (Dettmers et al. 2023, arXiv 2305.14314)."""

    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True


_LATER = (
    "evals_per_epoch",
    "eval_rows",
    "save_steps",
    "padding_free",
    "torch_compile",
    "use_liger_kernel",
    "attn_implementation",
    "pure_bf16",
)
"""Keys that were added after the first experiments were trained."""


class TrainingSettings(Section):
    """transformers' and TRL's training arguments, same names."""

    learning_rate: float | None = Field(None, gt=0, le=1)
    """Null: 1e-3 for lora and qlora, 1e-2 for prompt_tuning, 5e-5 for full. For dpo a tenth of that. For a base model
    with 1B parameters or more a fifth of that."""
    num_train_epochs: int = Field(3, ge=1, le=1000)
    max_steps: Literal[-1] | Annotated[int, Field(ge=1)] = -1
    """Above zero: stop after this many optimizer steps, regardless of num_train_epochs."""
    per_device_train_batch_size: int = Field(8, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    max_length: int = Field(1024, ge=8)
    """Tokens. The token audit refuses longer rows; nothing is ever truncated. cpt: the length of a block."""
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "paged_adamw_8bit"
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    eval_steps: int | None = Field(None, ge=1)
    """Optimizer steps between two evaluations of the held-out loss. Null: `evals_per_epoch` decides. The last step is
    always evaluated."""
    evals_per_epoch: int = Field(4, ge=1)
    """Evaluations of the held-out loss per epoch, evenly spaced. A run that `max_steps` ends within its first epoch
    counts as one epoch. An epoch with fewer steps is evaluated after each step."""
    eval_rows: int = Field(512, ge=1)
    """Number of validation rows for the held-out loss: the same rows every time, chosen by the hash of their ids. All
    rows if the split has no more."""
    save_steps: int | None = Field(None, ge=1)
    """Optimizer steps between two checkpoints. Null: one after each evaluation. The best and the last step are always
    saved. Two checkpoints are kept: the newest and the best."""
    early_stopping_patience: int | None = Field(3, ge=0)
    """Stop when the best held-out loss is this many evaluations old. Null or 0: never. A run does not stop before its
    schedule has decayed: `linear` and `cosine` to a tenth of the learning rate, constant schedules after warmup."""
    gradient_checkpointing: bool = False
    padding_free: bool | None = None
    """Put the rows of a batch end to end, without padding. Each row attends only to itself (variable-length attention).
    Null: only on a CPU, if the model supports it (Llama-like models); there it is up to a third faster. On a GPU
    (Ampere or newer) `true` uses torch's variable-length kernel, which has not been run on a GPU yet."""
    torch_compile: bool = False
    """Compile the layers. This takes about half a minute at the first step; then training is a fifth faster on a CPU.
    A CPU needs g++, and bfloat16 as its compute type (`ft doctor` shows it): compiled layers give wrong results in
    float32."""
    use_liger_kernel: bool = False
    """Use Liger's Triton kernels for norms, rotary embedding and MLP. Needs a GPU (not run on one yet) and
    `pip install 'ft-pipeline[liger]'`."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        None
    )
    """Attention during training, by transformers' name. Null: the model's default. All but `eager` and `sdpa` need a
    GPU, and the flash kernels need their package. `padding_free` has its own attention."""
    pure_bf16: bool = False
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
    def _off_in_one_way(cls, given: int | None) -> int | None:
        return given or None

    @property
    def allows_rows_end_to_end(self) -> bool:
        """Whether `padding_free` can be used. NEFTune's noise depends on the length of a row, and a named attention
        does not keep rows apart that are end to end."""
        return self.neftune_noise_alpha is None and self.attn_implementation is None

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later keys that have their defaults: a key that a new version adds must not change old specs."""
        usual = {name: type(self).model_fields[name].default for name in _LATER}
        return {key: value for key, value in dump(self).items() if key not in usual or value != usual[key]}


class MixSettings(Section):
    """How often an epoch uses the rows of each source: 1 each row once, 0.25 a seeded quarter of the rows, 2 each row
    twice."""

    human: float = Field(1.0, ge=0)
    distilled: float = Field(0.25, ge=0)
    replay: float = Field(0.0, ge=0)
    """Raw texts of data/raw/text, with every token trained, to limit forgetting: put general text there. A block has
    at most `max_length` tokens."""


class ExperimentData(Section):
    """The training data of the experiment."""

    weights: MixSettings = MixSettings()
    share: float = Field(1.0, gt=0, le=1)
    """Use only this share of each source's training rows (sft). `training.seed` draws the rows, and a larger share
    contains all rows of a smaller one. Validation uses all rows."""
    system_prompt: str | None = None
    """The system prompt that the tuned model is trained and served with. Null: none."""


class DpoSettings(Section):
    """TRL's DPOConfig, same names (Rafailov et al. 2023, arXiv 2305.18290)."""

    beta: float = Field(0.1, gt=0)
    """Penalty for moving away from the reference model: the larger, the closer the model stays."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """The assumed share of pairs whose preference is the wrong way round."""


class MergeSettings(Section):
    """How the adapter is merged into the weights."""

    mode: Literal["dequantized", "w16", "auto"] = "dequantized"
    max_kl: float = Field(0.02, gt=0)
    """Limit for `dequantized` and for lora: KL(adapter || merged), nats per token, on held-out prompts."""
    min_kept_gain: float = Field(0.9, gt=0, le=1)
    """Limit for qlora's `w16`, which merges into another base than the one trained on: the smallest share of the gain
    that the merged model must keep. The gain is the held-out loss of the base minus that of the adapter."""
    measure_noise: bool = True
    """qlora: measure what 4 bit costs on the held-out rows (base, merged, and merged in 4 bit again), for the table of
    the comparison. This takes seconds to minutes."""


class GpuSettings(Section):
    """GPU requirements of the experiment. An experiment that sets `count`, or `min_memory_gb` above 0, needs a GPU:
    without one, its steps fail. An experiment that sets neither uses a GPU if there is one, else the CPU."""

    count: int = Field(1, ge=1, le=8)
    """Number of GPUs that a training leases. With more than one, several processes train together (docs/deploy.md).
    Every other step leases one."""
    min_memory_gb: float = Field(0, ge=0)
    """GB (10⁹ bytes) that each GPU must have, and must have free when the job starts. 0: any GPU, regardless of its
    free memory."""

    @property
    def required(self) -> bool:
        """Whether the experiment needs a GPU: its YAML sets `count`, or a size above 0."""
        return "count" in self.model_fields_set or self.min_memory_gb > 0


class ExperimentSettings(Section):
    """experiments/NAME.yaml: one experiment."""

    description: str = ""
    base_model: str = Field("embedded", min_length=1)
    """`embedded` (SmolLM2-135M-Instruct from the wheel), a folder, or a hub id."""
    revision: str | None = None
    objective: Objective = "sft"
    """`sft` (answers to imitate), `dpo` (preferred and rejected answers) or `cpt` (raw text)."""
    technique: Technique = "qlora"
    """What is trained: a learned prompt (`prompt_tuning`), LoRA matrices on the 16-bit base (`lora`) or on the 4-bit
    base (`qlora`), or all weights (`full`)."""
    start_from: str | None = Field(None, pattern=NAME_PATTERN)
    """Another experiment, which is trained first: `cpt` before `sft`, `sft` before `dpo`. If `technique` and `lora` are
    equal, training continues with its adapter; otherwise it starts from its merged model. Null: start from the base
    model."""
    data: ExperimentData = ExperimentData()
    prompt_tuning: PromptTuningSettings = PromptTuningSettings()
    lora: LoraSettings = LoraSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    training: TrainingSettings = TrainingSettings()
    dpo: DpoSettings = DpoSettings()
    merge: MergeSettings = MergeSettings()
    gpu: GpuSettings = GpuSettings()
    seeds: int = Field(1, ge=1, le=10)
    """Number of trainings, with `training.seed` and the numbers after it. The additional ones are sweep members
    (`NAME.seed1`), and the comparison shows the spread of all of them."""
    learning_curve: list[float] = Field(default_factory=list)
    """Shares of the training rows to train on as well, in whole percent: `[0.25, 0.5]` (sft). Each is a sweep member
    (`NAME.at25`), and the comparison shows the loss by number of rows."""
    retrain: bool = False
    """Whether the nightly schedule trains it again when there are enough new rows. The champion's experiment is always
    included."""

    @model_validator(mode="after")
    def _combinations(self) -> "ExperimentSettings":
        if message := next(filter(None, (rule(self) for rule in RULES)), None):
            raise ValueError(message)
        return self


# --- what does not go together ----------------------------------------------------------------------------------------


def _four_bits_for_qlora_only(settings: ExperimentSettings) -> str | None:
    if settings.technique == "qlora" or settings.quantization == QuantizationSettings():
        return None
    return f"technique {settings.technique!r} uses no 4-bit base: remove `quantization` or say `technique: qlora`"


def _matrices_for_lora_only(settings: ExperimentSettings) -> str | None:
    if settings.technique in ("lora", "qlora") or settings.lora == LoraSettings():
        return None
    return f"technique {settings.technique!r} trains no LoRA matrices: remove `lora`, or say `technique: lora`"


def _virtual_tokens_for_prompt_tuning_only(settings: ExperimentSettings) -> str | None:
    if settings.technique == "prompt_tuning" or settings.prompt_tuning == PromptTuningSettings():
        return None
    return f"technique {settings.technique!r} has no virtual tokens: remove `prompt_tuning`"


def _a_learned_prompt_imitates_answers(settings: ExperimentSettings) -> str | None:
    if settings.technique != "prompt_tuning":
        return None
    if settings.start_from is not None:
        return "technique 'prompt_tuning' begins at the untouched model: remove `start_from`, or say `technique: lora`"
    few = f"objective {settings.objective!r} asks too much of a few virtual tokens before a frozen model"
    why = {
        "dpo": f"{few}, which would be its own reference; say `technique: lora`",
        "cpt": f"{few}: they can steer, and cannot hold a text; say `technique: lora`",
    }
    return why.get(settings.objective)


def _no_prompt_before_rows_end_to_end(settings: ExperimentSettings) -> str | None:
    if settings.technique != "prompt_tuning" or not settings.training.padding_free:
        return None
    return "technique 'prompt_tuning' puts its prompt before each row of a batch: remove `training.padding_free`"


def _noise_of_a_row(settings: ExperimentSettings) -> str | None:
    if settings.training.neftune_noise_alpha is None or not settings.training.padding_free:
        return None
    return (
        "training.neftune_noise_alpha is divided by the length of a row, which padding_free makes that of a batch: "
        "remove one of the two"
    )


def _one_attention(settings: ExperimentSettings) -> str | None:
    name = settings.training.attn_implementation
    if name is None or not settings.training.padding_free:
        return None
    return f"training.padding_free has its own attention. Remove it, or `attn_implementation: {name}`"


def _bf16_weights_of_full(settings: ExperimentSettings) -> str | None:
    if not settings.training.pure_bf16:
        return None
    if settings.technique != "full":
        return f"technique {settings.technique!r} trains 32-bit weights: remove `training.pure_bf16`, or say `full`"
    if settings.training.optim == "adamw_torch":
        return "training.pure_bf16 rounds the updates of an 8-bit optimizer: say `optim: paged_adamw_8bit`"
    return None


def _merge_mode(settings: ExperimentSettings) -> str | None:
    if settings.technique == "qlora" or settings.merge == MergeSettings():
        return None
    if settings.technique == "lora":
        return (
            "technique 'lora' has one way to merge: remove `merge.mode`"
            if settings.merge.mode != "dequantized"
            else None
        )
    return f"technique {settings.technique!r} has nothing to merge: remove `merge`"


def _pairs_for_dpo_only(settings: ExperimentSettings) -> str | None:
    if settings.objective == "dpo" or settings.dpo == DpoSettings():
        return None
    return f"objective {settings.objective!r} compares no answers: remove `dpo`, or say `objective: dpo`"


def _sources_for_sft_only(settings: ExperimentSettings) -> str | None:
    if settings.objective == "sft" or settings.data.weights == MixSettings():
        return None
    source = {"dpo": "data/raw/preferences", "cpt": "data/raw/text"}[settings.objective]
    return f"objective {settings.objective!r} trains on {source} alone: remove `data.weights`"


def _something_to_train_on(settings: ExperimentSettings) -> str | None:
    weights = settings.data.weights
    if weights.human or weights.distilled:
        return None
    return "data.weights are all 0, so nothing is trained on: raise `human` or `distilled`"


def _shares_for_sft_only(settings: ExperimentSettings) -> str | None:
    if settings.objective == "sft" or (settings.data.share == 1 and not settings.learning_curve):
        return None
    key = "learning_curve" if settings.learning_curve else "data.share"
    return f"objective {settings.objective!r} trains on all its rows: remove `{key}`, or say `objective: sft`"


def _whole_percents(settings: ExperimentSettings) -> str | None:
    for share in settings.learning_curve:
        if not 0.01 <= share <= 0.99:
            return f"learning_curve holds {share:g}: name shares from 0.01 to 0.99; all rows are trained on anyway"
        if abs(100 * share - round(100 * share)) > 1e-6:
            return f"learning_curve holds {share:g}: name shares in whole percent, such as {round(100 * share) / 100:g}"
        if settings.learning_curve.count(share) > 1:
            return f"learning_curve holds {share:g} twice: name each share once"
    return None


RULES: tuple[Callable[[ExperimentSettings], str | None], ...] = (
    _four_bits_for_qlora_only,
    _matrices_for_lora_only,
    _virtual_tokens_for_prompt_tuning_only,
    _a_learned_prompt_imitates_answers,
    _no_prompt_before_rows_end_to_end,
    _noise_of_a_row,
    _one_attention,
    _bf16_weights_of_full,
    _merge_mode,
    _pairs_for_dpo_only,
    _sources_for_sft_only,
    _something_to_train_on,
    _shares_for_sft_only,
    _whole_percents,
)
