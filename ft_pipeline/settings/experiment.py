"""experiments/*.yaml as typed models: how a model is trained, and what it is served with (docs/settings.md)."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from ft_pipeline.settings.chat_template import TemplateVariables, check_template_variables
from ft_pipeline.settings.distill import OWN_PROMPT, DistillSettings
from ft_pipeline.settings.gguf_types import unknown_type
from ft_pipeline.settings.machine import MachineSettings
from ft_pipeline.settings.preferences import DpoSettings, KtoSettings
from ft_pipeline.settings.project import NAME_PATTERN
from ft_pipeline.settings.rewards import GrpoSettings
from ft_pipeline.settings.training import LoraSettings, PromptTuningSettings, QuantizationSettings, TrainingSettings
from ft_pipeline.settings.yaml_file import Section, rule_error

Technique = Literal["prompt_tuning", "lora", "qlora", "full"]
Objective = Literal["sft", "dpo", "kto", "cpt", "grpo", "distill"]


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
    reasoning: Literal["train", "keep", "drop"] = "train"
    """The reasoning of assistant turns (docs/training-rows.md). `train`: trained like the answer. `keep`: shown before
    the answer, not trained. `drop`: left out, in training and in scoring."""

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: Callable[["ExperimentData"], dict[str, Any]]) -> dict[str, Any]:
        """Leave out keys that older versions lack, if they have their defaults: old specs must not change."""
        return {key: value for key, value in serialize(self).items() if (key, value) != ("reasoning", "train")}


class MergeSettings(Section):
    """How the adapter is merged into the weights."""

    mode: Literal["dequantized", "w16", "auto"] = "dequantized"
    max_kl: float = Field(0.02, gt=0)
    """Limit for `dequantized` and for lora: KL(adapter || merged), nats per token, on held-out prompts."""
    min_kept_gain: float = Field(0.9, gt=0, le=1)
    """Limit for qlora's `w16`, which merges into a different base than the one trained on: the smallest share of the
    gain that the merged model must keep. The gain is the held-out loss of the base minus that of the adapter."""
    measure_noise: bool = True
    """qlora: measure the quantization noise on the held-out rows (base model, merged model, and merged model quantized
    again), for the table in the comparison. This takes seconds to minutes."""


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
    chat_template_kwargs: TemplateVariables = Field(default_factory=dict)
    """Variables of the base model's chat template, such as `{enable_thinking: false}`. They are written into the
    template, so that training, scoring, serving and exports use the same values, and a request cannot change them."""
    objective: Objective = "sft"
    """`sft` (answers to imitate), `dpo` (preferred and rejected answers), `kto` (answers with a thumb up or down),
    `cpt` (raw text), `grpo` (own answers, and rewards that can be checked) or `distill` (a teacher's token
    distributions)."""
    technique: Technique = "qlora"
    """What is trained: a learned prompt (`prompt_tuning`), LoRA matrices on the 16-bit base (`lora`) or on the 4-bit
    base (`qlora`), or all weights (`full`)."""
    start_from: str | None = Field(None, pattern=NAME_PATTERN)
    """Another experiment, which is trained first: `cpt` before `sft`, `sft` before `dpo`, `kto` or `grpo`. If
    `technique` and `lora` are equal, training continues with its adapter; otherwise it starts from its merged model.
    Null: start from the base model."""
    data: ExperimentData = ExperimentData()
    prompt_tuning: PromptTuningSettings = PromptTuningSettings()
    lora: LoraSettings = LoraSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    training: TrainingSettings = TrainingSettings()
    dpo: DpoSettings = DpoSettings()
    kto: KtoSettings = KtoSettings()
    grpo: GrpoSettings = GrpoSettings()
    distill: DistillSettings | None = None
    """The teacher of the objective `distill`, which needs this section."""
    merge: MergeSettings = MergeSettings()
    gpu: GpuSettings = GpuSettings()
    machine: MachineSettings = MachineSettings()
    seeds: int = Field(1, ge=1, le=10)
    """Number of trainings, with `training.seed` and the numbers after it. The additional ones are sweep members
    (`NAME.seed1`), and the comparison shows the spread of all of them."""
    learning_curve: list[float] = Field(default_factory=list)
    """Shares of the training rows for additional trainings, in whole percent: `[0.25, 0.5]` (sft). Each is a sweep
    member (`NAME.at25`), and the comparison shows the loss by number of rows."""
    gguf: list[str] = Field(default_factory=list)
    """Types of GGUF files that the merged model is quantized to, each scored by llama.cpp: `[q8_0, q4_k_m]`
    (docs/gguf.md). No step of the training depends on it."""
    retrain: bool = False
    """Whether the nightly schedule trains it again when there are enough new rows. The champion's experiment is always
    included."""

    @property
    def is_on_policy(self) -> bool:
        """Whether a teacher reads answers of the student during training."""
        return self.distill is not None and self.distill.on_policy > 0

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_template_variables(cls, variables: TemplateVariables) -> TemplateVariables:
        return check_template_variables(variables)

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: Callable[["ExperimentSettings"], dict[str, Any]]) -> dict[str, Any]:
        """Leave out later keys that have their defaults: a new version must not change old specs."""
        defaults = {"chat_template_kwargs": {}, "kto": KtoSettings(), "grpo": GrpoSettings(), "distill": None}
        unset = {key for key, default in defaults.items() if getattr(self, key) == default}
        return {key: value for key, value in serialize(self).items() if key not in unset}

    @model_validator(mode="after")
    def _check_combinations(self) -> "ExperimentSettings":
        if violation := next(filter(None, (rule(self) for rule in RULES)), None):
            raise rule_error(*violation)
        return self


# --- invalid combinations ---------------------------------------------------------------------------------------------

Violation = tuple[str, str] | None
"""Result of a rule: (key to change, message), or None if the settings keep the rule."""


def _quantization_settings_for_qlora_only(settings: ExperimentSettings) -> Violation:
    if settings.technique == "qlora" or settings.quantization == QuantizationSettings():
        return None
    return (
        "quantization",
        f"technique {settings.technique!r} uses no 4-bit base. Remove `quantization`, or set `technique: qlora`.",
    )


def _lora_settings_for_lora_only(settings: ExperimentSettings) -> Violation:
    if settings.technique in ("lora", "qlora") or settings.lora == LoraSettings():
        return None
    return "lora", f"technique {settings.technique!r} trains no LoRA matrices. Remove `lora`, or set `technique: lora`."


def _prompt_tuning_settings_for_prompt_tuning_only(settings: ExperimentSettings) -> Violation:
    if settings.technique == "prompt_tuning" or settings.prompt_tuning == PromptTuningSettings():
        return None
    return "prompt_tuning", f"technique {settings.technique!r} has no virtual tokens. Remove `prompt_tuning`."


def _prompt_tuning_from_base_model_with_sft(settings: ExperimentSettings) -> Violation:
    if settings.technique != "prompt_tuning":
        return None
    if settings.start_from is not None:
        return (
            "start_from",
            "technique 'prompt_tuning' starts from the base model. Remove `start_from`, or set `technique: lora`.",
        )
    reasons = {
        "dpo": "a few virtual tokens cannot learn it, and the frozen model would be its own reference",
        "kto": "a few virtual tokens cannot learn it, and the frozen model would be its own reference",
        "cpt": "a few virtual tokens can steer the model, but cannot store texts",
        "grpo": "a few virtual tokens cannot learn it",
    }
    if settings.objective not in reasons:
        return None
    return (
        "objective",
        f"objective {settings.objective!r} does not work with technique 'prompt_tuning': "
        f"{reasons[settings.objective]}. Set `technique: lora`.",
    )


def _no_prompt_tuning_with_padding_free(settings: ExperimentSettings) -> Violation:
    if settings.technique != "prompt_tuning" or not settings.training.padding_free:
        return None
    return (
        "training.padding_free",
        "technique 'prompt_tuning' puts its prompt before each row, but padding_free joins the rows of a batch. "
        "Remove `training.padding_free`.",
    )


def _token_budget_holds_a_row(settings: ExperimentSettings) -> Violation:
    budget, longest = settings.training.tokens_per_batch, settings.training.max_length
    if budget is None or budget >= longest:
        return None
    return (
        "training.tokens_per_batch",
        f"training.tokens_per_batch is {budget}, but a row may have {longest} tokens (training.max_length). Set it to "
        f"{longest} or more.",
    )


def _token_budget_counts_every_token(settings: ExperimentSettings) -> Violation:
    reasons = {"prompt_tuning": "the learned prompt of each row", "grpo": "the answers, which have no length yet"}
    found = [reasons[name] for name in (settings.technique, settings.objective) if name in reasons]
    if settings.training.tokens_per_batch is None or not found:
        return None
    return (
        "training.tokens_per_batch",
        f"training.tokens_per_batch does not count {found[0]}. Remove it, and set per_device_train_batch_size.",
    )


def _no_neftune_with_padding_free(settings: ExperimentSettings) -> Violation:
    if settings.training.neftune_noise_alpha is None or not settings.training.padding_free:
        return None
    return (
        "training.neftune_noise_alpha",
        "training.neftune_noise_alpha depends on the length of a row, but padding_free joins the rows of a batch. "
        "Remove one of the two.",
    )


def _no_attention_setting_with_padding_free(settings: ExperimentSettings) -> Violation:
    name = settings.training.attn_implementation
    if name is None or not settings.training.padding_free:
        return None
    return (
        "training.padding_free",
        f"training.padding_free has its own attention. Remove it, or remove `attn_implementation: {name}`.",
    )


def _pure_bf16_for_full_only(settings: ExperimentSettings) -> Violation:
    if not settings.training.pure_bf16:
        return None
    if settings.technique != "full":
        return (
            "training.pure_bf16",
            f"technique {settings.technique!r} trains 32-bit weights. Remove `training.pure_bf16`, or set "
            "`technique: full`.",
        )
    if settings.training.optim == "adamw_torch":
        return "training.pure_bf16", "training.pure_bf16 needs an 8-bit optimizer. Set `optim: paged_adamw_8bit`."
    return None


def _merge_settings_for_adapters_only(settings: ExperimentSettings) -> Violation:
    if settings.technique == "qlora" or settings.merge == MergeSettings():
        return None
    if settings.technique == "lora":
        if settings.merge.mode == "dequantized":
            return None
        return "merge.mode", "technique 'lora' has only one merge mode. Remove `merge.mode`."
    return "merge", f"technique {settings.technique!r} has nothing to merge. Remove `merge`."


def _dpo_settings_for_dpo_only(settings: ExperimentSettings) -> Violation:
    if settings.objective == "dpo" or settings.dpo == DpoSettings():
        return None
    return "dpo", f"objective {settings.objective!r} compares no answers. Remove `dpo`, or set `objective: dpo`."


def _kto_settings_for_kto_only(settings: ExperimentSettings) -> Violation:
    if settings.objective == "kto" or settings.kto == KtoSettings():
        return None
    return "kto", f"objective {settings.objective!r} reads no thumbs. Remove `kto`, or set `objective: kto`."


def _grpo_settings_for_grpo_only(settings: ExperimentSettings) -> Violation:
    if settings.objective == "grpo" or settings.grpo == GrpoSettings():
        return None
    return "grpo", f"objective {settings.objective!r} has no rewards. Remove `grpo`, or set `objective: grpo`."


def _no_shown_reasoning_with_grpo(settings: ExperimentSettings) -> Violation:
    if settings.objective != "grpo" or settings.data.reasoning != "keep":
        return None
    return (
        "data.reasoning",
        "objective 'grpo' trains answers that the model draws with its own reasoning. Remove `data.reasoning: keep`.",
    )


def _distill_settings_for_distill_only(settings: ExperimentSettings) -> Violation:
    if settings.objective == "distill" and settings.distill is None:
        return (
            "objective",
            "objective 'distill' needs a teacher. Add `distill: {variant: NAME}` with a variant of prompting.variants.",
        )
    if settings.distill is None:
        return None
    if settings.objective != "distill":
        problem = f"objective {settings.objective!r} has no teacher"
        return "distill", f"{problem}. Remove `distill`, or set `objective: distill`."
    if settings.distill.teacher == OWN_PROMPT and settings.distill.variant is None:
        return (
            "distill.variant",
            "`distill.teacher: own_prompt` needs `distill.variant`. Name a variant of prompting.variants.",
        )
    return None


def _own_answers_of_lora_or_full_on_one_gpu(settings: ExperimentSettings) -> Violation:
    if not settings.is_on_policy:
        return None
    if settings.technique == "prompt_tuning":
        return (
            "distill.on_policy",
            "technique 'prompt_tuning' does not learn from its own answers. Remove `distill.on_policy`, or set "
            "`technique: lora`.",
        )
    if settings.gpu.count > 1:
        return "gpu.count", f"distill.on_policy trains on one GPU, not on {settings.gpu.count}. Set `gpu.count: 1`."
    return None


def _source_weights_for_sft_only(settings: ExperimentSettings) -> Violation:
    if settings.objective == "sft" or settings.data.weights == MixSettings():
        return None
    sources = {
        "dpo": "data/raw/preferences",
        "kto": "data/raw/feedback",
        "cpt": "data/raw/text",
        "grpo": "the prompts of the conversations",
        "distill": "the answers of its teacher",
    }
    source = sources[settings.objective]
    return "data.weights", f"objective {settings.objective!r} trains only on {source}. Remove `data.weights`."


def _known_gguf_types(settings: ExperimentSettings) -> Violation:
    if problem := unknown_type(settings.gguf):
        return "gguf", problem
    if settings.gguf and settings.technique == "prompt_tuning":
        return "gguf", "technique 'prompt_tuning' has no merged weights for a GGUF file. Remove `gguf`."
    return None


def _no_reasoning_in_raw_text(settings: ExperimentSettings) -> Violation:
    if settings.objective != "cpt" or settings.data.reasoning == "train":
        return None
    return "data.reasoning", "objective 'cpt' trains on raw text, which has no turns. Remove `data.reasoning`."


def _no_long_rows_in_blocks(settings: ExperimentSettings) -> Violation:
    if settings.objective != "cpt" or settings.training.long_rows == "fail":
        return None
    return (
        "training.long_rows",
        "objective 'cpt' divides its texts into blocks, so that no row is too long. Remove `training.long_rows`.",
    )


def _some_training_rows(settings: ExperimentSettings) -> Violation:
    weights = settings.data.weights
    if weights.human or weights.distilled:
        return None
    return (
        "data.weights",
        "data.weights.human and data.weights.distilled are 0, so there are no training rows. Raise one of them.",
    )


def _shares_for_sft_only(settings: ExperimentSettings) -> Violation:
    if settings.objective == "sft" or (settings.data.share == 1 and not settings.learning_curve):
        return None
    key = "learning_curve" if settings.learning_curve else "data.share"
    return key, f"objective {settings.objective!r} trains on all its rows. Remove `{key}`, or set `objective: sft`."


def _learning_curve_in_whole_percent(settings: ExperimentSettings) -> Violation:
    for share in settings.learning_curve:
        if not 0.01 <= share <= 0.99:
            return (
                "learning_curve",
                f"learning_curve contains {share:g}. Use shares from 0.01 to 0.99 (1 is the experiment itself).",
            )
        if abs(100 * share - round(100 * share)) > 1e-6:
            return (
                "learning_curve",
                f"learning_curve contains {share:g}. Use whole percentages, such as {round(100 * share) / 100:g}.",
            )
        if settings.learning_curve.count(share) > 1:
            return "learning_curve", f"learning_curve contains {share:g} twice. List each share once."
    return None


RULES: tuple[Callable[[ExperimentSettings], Violation], ...] = (
    _quantization_settings_for_qlora_only,
    _lora_settings_for_lora_only,
    _prompt_tuning_settings_for_prompt_tuning_only,
    _prompt_tuning_from_base_model_with_sft,
    _no_prompt_tuning_with_padding_free,
    _token_budget_holds_a_row,
    _token_budget_counts_every_token,
    _no_neftune_with_padding_free,
    _no_attention_setting_with_padding_free,
    _pure_bf16_for_full_only,
    _merge_settings_for_adapters_only,
    _dpo_settings_for_dpo_only,
    _kto_settings_for_kto_only,
    _grpo_settings_for_grpo_only,
    _no_shown_reasoning_with_grpo,
    _distill_settings_for_distill_only,
    _own_answers_of_lora_or_full_on_one_gpu,
    _source_weights_for_sft_only,
    _some_training_rows,
    _no_long_rows_in_blocks,
    _no_reasoning_in_raw_text,
    _shares_for_sft_only,
    _learning_curve_in_whole_percent,
    _known_gguf_types,
)
"""An experiment is refused with the first violation."""
